"""The trials of a search: Optuna proposes values, each trial is an ordinary training, and the best one is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from pytest_finetune.executors import outcomes
from pytest_finetune.executors.protocol import ExecutorError
from pytest_finetune.executors.waiting import JobError, Unwanted
from pytest_finetune.experiment.over import Choice, Over
from pytest_finetune.judging.searched import COMPLETE, FAILED, PRUNED
from pytest_finetune.store import StoreError
from pytest_finetune.suite.trials.journal import Entry, Journal
from pytest_finetune.wording import counted, figure, percent

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import Trial as Proposal

    from pytest_finetune.suite.context import Line
    from pytest_finetune.suite.trials.bench import Bench, Tried
    from pytest_finetune.training.request import Progress

DRAWN: Final = 4
"""So many trials are drawn at random before others are proposed from them, and end before one is stopped early."""
LOOKED_AT: Final = 3
"""In the first tenths of a training, so many, none is stopped: the loss says little yet."""
TENTHS: Final = 10
_SAME_AGAIN: Final = 50


class Pruned(Unwanted):
    """A training is stopped early, here or in the job that it is."""


class Pruning:
    """A line that also hears the losses of a training, and stops it where the study has seen better."""

    def __init__(self, line: Line, proposal: Proposal) -> None:
        self._line = line
        self._proposal = proposal
        self.looks: dict[int, float] = {}

    def show(self, progress: Progress) -> None:
        """Show where the training stands; Pruned where it is no better than half of those before it."""
        self._line.show(progress)
        loss = progress.unseen_loss
        if loss is None or not isfinite(loss):
            return
        tenth = TENTHS * progress.step // max(1, progress.steps)
        if tenth in self.looks or progress.step == progress.steps:
            return
        self.looks[tenth] = loss
        self._proposal.report(-loss, tenth)
        if self._proposal.should_prune():
            raise Pruned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)


class Search:
    """One search: what is tried, within which budget, from which seed."""

    def __init__(self, bench: Bench, overs: Sequence[Over], budget: int, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._bench = bench
        self._overs = {over.key: over for over in overs}
        self._budget, self._seed = budget, seed
        self._journal = Journal(bench, overs, seed)
        pruner = optuna.pruners.MedianPruner(DRAWN, LOOKED_AT, n_min_trials=DRAWN)
        self._study: Study = optuna.create_study(direction="maximize", pruner=pruner)
        self._space = {key: _distribution(over) for key, over in self._overs.items()}
        self._comparable = all(key.partition(".")[0] in ("training", "lora") for key in self._overs)

    def run(self) -> None:
        """Take over what was tried before, and go on up to the budget."""
        for entry in self._journal.entries[: self._budget]:
            self._take_over(entry)
        if own := self._as_written():
            self._study.enqueue_trial(own, skip_if_exists=True)
        again = 0
        while len(self._journal.entries) < self._budget and again < _SAME_AGAIN and not self._all_tried():
            proposal, values = self._ask()
            known = self._known(values)
            if known is None:
                again = 0
                self._try(proposal, values)
            else:
                again += 1
                self._study.tell(proposal, known.value, state=known.state)
        self._bench.found["all_tried"] = self._all_tried()

    def _ask(self) -> tuple[Proposal, dict[str, Any]]:
        """Let the study propose values, by a seed that the number of its trials names: stopping changes no proposal."""
        import optuna

        number = len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=DRAWN, seed=self._seed + 7919 * number
        )
        proposal = self._study.ask(self._space)
        return proposal, dict(proposal.params)

    def _try(self, proposal: Proposal, values: Mapping[str, Any]) -> None:
        bench = self._bench
        line = Pruning(bench.context.line, proposal)
        context = bench.context
        if self._comparable:
            context = dataclasses.replace(context, line=cast("Line", line))
        try:
            tried = bench.judge(values, context=context)
        except Pruned:
            self._end(proposal, Entry(values, PRUNED, tuple(line.looks.items()), _stopped(line.looks)))
        except pytest.fail.Exception as error:
            if not _of_the_values(error.__context__):
                raise
            why = str(error).splitlines()[0]
            self._end(proposal, Entry(values, FAILED, tuple(line.looks.items()), why))
        else:
            self._end(proposal, Entry(values, COMPLETE, tuple(line.looks.items())), tried)

    def _end(self, proposal: Proposal, entry: Entry, tried: Tried | None = None) -> None:
        self._study.tell(proposal, tried and tried.score.rate, state=_state(entry.state))
        self._journal.add(entry)
        self._keep(entry, tried)

    def _take_over(self, entry: Entry) -> None:
        """Put a trial of before into the study; what a complete one is worth comes from the store."""
        import optuna

        tried = self._bench.judge(entry.values) if entry.state == COMPLETE else None
        self._study.add_trial(
            optuna.trial.create_trial(
                params=dict(entry.values),
                distributions=self._space,
                value=tried and tried.score.rate,
                state=_state(entry.state),
                intermediate_values={tenth: -loss for tenth, loss in entry.looks},
            )
        )
        self._keep(entry, tried)

    def _keep(self, entry: Entry, tried: Tried | None) -> None:
        trials = self._bench.found["trials"]
        told = {"values": dict(entry.values), "state": entry.state, "why": entry.why}
        trials.append({**told, "tried": tried and tried.as_json()})
        named = ", ".join(f"{key} {_written(value)}" for key, value in entry.values.items())
        if tried is None:
            said = f"{entry.state}, {entry.why}"
        else:
            rows = counted(tried.score.tally.total, "development row")
            said = f"{percent(tried.score.rate)} of {rows}, {'from the store' if tried.reused else 'trained now'}"
        self._bench.context.line.say(f"trial {len(trials)} of {self._budget}: {named}: {said}")

    def _known(self, values: Mapping[str, Any]) -> Any:
        return next(
            (one for one in self._study.trials if one.state.is_finished() and one.params == values), None
        )

    def _all_tried(self) -> bool:
        """Tell whether a space of choices alone has nothing left."""
        sizes = [len(over.values) if isinstance(over, Choice) else None for over in self._overs.values()]
        if None in sizes:
            return False
        different = {tuple(map(repr, one.values.values())) for one in self._journal.entries}
        return len(different) >= prod(size for size in sizes if size is not None)

    def _as_written(self) -> dict[str, Any]:
        """Return the experiment's own values, which are tried first; empty where one lies outside what is tried."""
        found = {}
        for key, over in self._overs.items():
            at: Any = self._bench.base.experiment.resolved
            for name in key.split("."):
                at = at.get(name) if isinstance(at, Mapping) else None
            if not over.holds(at):
                return {}
            found[key] = at
        return found


def _distribution(over: Over) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(over, Choice):
        return CategoricalDistribution(over.values)
    if over.whole:
        return IntDistribution(int(over.low), int(over.high), log=over.log)
    return FloatDistribution(over.low, over.high, log=over.log)


def _state(word: str) -> Any:
    from optuna.trial import TrialState

    return {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}[word]


def _of_the_values(fault: BaseException | None) -> bool:
    """Tell whether a failure may come from what was tried; a full disk, an engine or a lost job says nothing of it."""
    if isinstance(fault, JobError):
        return fault.state in (outcomes.FAILED.word, outcomes.MEMORY.word)
    return not isinstance(fault, ExecutorError | StoreError)


def _stopped(looks: Mapping[int, float]) -> str:
    tenth, loss = list(looks.items())[-1]
    return f"its loss {figure(loss)} after {tenth * 10}% of the steps was no better than half of those before"


def _written(value: Any) -> str:
    return figure(value) if isinstance(value, float) else str(value)
