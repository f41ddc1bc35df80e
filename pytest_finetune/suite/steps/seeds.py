"""Several seeds: an adapter with each, and the one that is judged, chosen on development rows and never on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pytest_finetune.fingerprint import adapter_digest
from pytest_finetune.judging.scores import Tally
from pytest_finetune.suite.steps.training_step import kept_loss
from pytest_finetune.wording import counted, figure, listed, percent

if TYPE_CHECKING:
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.training_step import Adapter, Trained, TrainingStep

By = Literal["rule", "loss", "order"]

NO_ROWS: Final = "there are no development rows to choose on (paths.dev_file, or split: {dev: 0.1})"
NO_RULE: Final = (
    "no primary rule can be asked about development rows, and no loss on them is known (training.keep: best)"
)


class OnDevelopment(NamedTuple):
    """What the primary rule, of this name, gave an adapter's answers to the development rows."""

    rule: str
    tally: Tally
    outputs_key: str

    @property
    def rate(self) -> float:
        """The mean score."""
        return self.tally.rate

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {**self.tally._asdict(), "rate": self.rate, "outputs_key": self.outputs_key}


@dataclass(frozen=True, slots=True)
class Choice:
    """The seed whose adapter is judged, by what it was chosen, and that in a sentence."""

    seed: int
    by: By
    says: str


@dataclass(frozen=True, slots=True)
class Seeds:
    """The folder of each seed's adapter, and the adapter that is judged."""

    paths: Mapping[int, Path]
    judged: Adapter


Asked = Callable[[Path], OnDevelopment | None]
"""Lets an adapter answer the development rows; None where there are none, or no rule that can be asked before."""


def trained_seeds(
    context: Context, step: Callable[[Context, bool], TrainingStep], asked: Callable[[], Asked | None]
) -> Seeds:
    """Train with each seed, choose, and record; what an interrupted run has trained is reused by the next one.

    `step` makes the training of one seed, and hears whether it is the first. `asked` is called once all are trained,
    and gives None where nothing can be scored before the rules run.
    """
    steps: dict[int, TrainingStep] = {}
    trained: dict[int, Trained] = {}
    for seed in context.experiment.training.seeds:
        own = dataclasses.replace(context, experiment=context.experiment.of_seed(seed))
        steps[seed] = step(own, all(one.reused for one in trained.values()))
        trained[seed] = steps[seed].trained()
    ask = asked()
    scored = {seed: None if ask is None else ask(one.entry.path) for seed, one in trained.items()}
    choice = chosen(
        context.experiment.has_dev_rows, scored, {s: kept_loss(one.entry.about) for s, one in trained.items()}
    )
    facts = [_facts(seed, one, scored[seed]) for seed, one in trained.items()]
    told = {"seed": choice.seed, "chosen_by": choice.by, "says": choice.says, "seeds": facts}
    context.record(("recipe",), told)
    steps[choice.seed].record_key(trained[choice.seed].key)
    judged = steps[choice.seed].recorded(trained[choice.seed])
    return Seeds({seed: one.entry.path for seed, one in trained.items()}, judged)


def chosen(
    has_rows: bool, scored: Mapping[int, OnDevelopment | None], losses: Mapping[int, float | None]
) -> Choice:
    """Choose by the primary rule on the development rows, else by the loss there; the first of equals."""
    rates = {seed: one for seed, one in scored.items() if one is not None and one.tally.total}
    if len(rates) == len(scored):
        seed = max(rates, key=lambda seed: rates[seed].rate)
        rows, rule = counted(rates[seed].tally.total, "development row"), rates[seed].rule
        others = [percent(one.rate) for other, one in rates.items() if other != seed]
        says = f"chosen by {rule} on {rows} ({percent(rates[seed].rate)}; the others {listed(others, 8)})"
        return Choice(seed, "rule", f"seed {seed} is judged, {says}")
    known = {seed: loss for seed, loss in losses.items() if loss is not None}
    if len(known) == len(losses):
        seed = min(known, key=lambda seed: known[seed])
        others = [figure(loss) for other, loss in known.items() if other != seed]
        says = f"chosen by the loss on the development rows ({figure(known[seed])}; the others {listed(others, 8)})"
        return Choice(seed, "loss", f"seed {seed} is judged, {says}")
    first = next(iter(losses))
    why = NO_RULE if has_rows else NO_ROWS
    return Choice(first, "order", f"seed {first} is judged, the first of the list: {why}")


def _facts(seed: int, trained: Trained, scored: OnDevelopment | None) -> dict[str, object]:
    about: Mapping[str, Any] = trained.entry.about
    told: Sequence[str] = ("steps", "seconds", "final_loss", "kept_step")
    return {
        "seed": seed,
        "key": trained.key.value,
        "adapter_key": trained.entry.key,
        "adapter_sha256": adapter_digest(trained.entry.path),
        "reused": trained.reused,
        **{name: about.get(name) for name in told},
        "dev": None if scored is None else scored.as_json(),
        "dev_loss": kept_loss(about),
    }
