"""The data stage of a run: its contract, its rows, and what is checked before anything is trained or asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from pytest_finetune.answering.prompts import choose_shots
from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.checks.conversations import check_conversations
from pytest_finetune.data.checks.files import asked_findings, longest
from pytest_finetune.data.checks.outputs import check_outputs
from pytest_finetune.data.checks.splits import check_dev_rows
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.formatting import Pair, format_pair, format_prompt
from pytest_finetune.data.neutral import PromptsError, neutral_rows
from pytest_finetune.data.profile import overlap, profile
from pytest_finetune.data.replay import replay_findings, replay_prompts
from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.data.splitting import set_aside
from pytest_finetune.data.tokens import tokenization_of
from pytest_finetune.data.turn_by_turn import turn_by_turn
from pytest_finetune.experiment.reading import line_of
from pytest_finetune.fingerprint import cached_snapshot
from pytest_finetune.suite.steps.runtime_findings import (
    gguf_findings,
    left_out_findings,
    template_findings,
    unread_template_findings,
)

if TYPE_CHECKING:
    from pytest_finetune.data.findings import Finding, Findings
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.store import Judged, LookBook
    from pytest_finetune.suite.context import Context

OVERLAP_ROWS: Final = 100_000
FEW_DEV_ROWS: Final = 20


class Data(NamedTuple):
    """The contract of an experiment, and its files as they were read; `dev` where something is chosen on rows."""

    contract: Contract
    train: Rows
    held_out: Rows
    dev: Rows | None = None


class Taught(NamedTuple):
    """The rows that are trained on, and those that something is chosen on, if there are any."""

    train: Rows
    dev: Rows | None


def contract_of(context: Context, dev: Callable[[], Rows | None]) -> Contract:
    """Return the data contract, with the checks that plugins, the store's looks and development rows add."""
    experiment = context.experiment
    contract = written_contract(experiment)
    tokenization = contract.tokenization
    checks = (
        partial(_plugin_checks, context),
        partial(suite_findings, experiment, contract),
        partial(dev_findings, contract, dev),
        partial(replayed_findings, experiment),
        partial(trained_after_a_look, context.store.looks),
        partial(few_shot_findings, experiment, tokenization, contract.label_field),
        partial(trained_turns, experiment),
        partial(template_findings, experiment, tokenization),
        partial(unread_template_findings, experiment),
        partial(left_out_findings, experiment, contract),
        partial(gguf_findings, experiment, needed=context.settings.finetune),
        partial(base_findings, experiment),
    )
    return SessionContract.of(contract.with_checks(*checks), partial(_record_findings, context))


def written_contract(experiment: Experiment) -> Contract:
    """Return the data contract as it is written, with the tokenizer where it is at hand."""
    file = experiment.paths.contract_file
    contract = Contract.load(experiment.root, file) if file else Contract.default()
    tokenization = tokenization_of(experiment)
    return contract if tokenization is None else contract.with_tokens(tokenization)


def contract_of_trial(experiment: Experiment, dev: Callable[[], Rows | None]) -> Contract:
    """Return the data contract for training rows and development rows alone, without what a run adds besides."""
    contract = written_contract(experiment)
    return contract.with_checks(partial(dev_findings, contract, dev))


def _record_findings(context: Context, findings: Findings) -> None:
    context.record(("data", "findings"), [found.as_json() for found in (*findings, *findings.notes)])
    waived = [{**found.as_json(), "waiver": waiver.as_json()} for found, waiver in findings.waived]
    context.record(("data", "waived"), waived)


def _plugin_checks(context: Context, train: Rows, held_out: Rows) -> list[Any]:
    found = context.hooks.pytest_finetune_data_checks(
        experiment=context.experiment, train_rows=train, eval_rows=held_out
    )
    return [one for findings in found for one in findings or ()]


class SessionContract(Contract):
    """A contract that remembers its findings; the built-in check and the user's test share one computation."""

    _found: tuple[Rows, Rows, Findings] | None
    _record: Callable[[Findings], None]

    @classmethod
    def of(cls, contract: Contract, record: Callable[[Findings], None]) -> SessionContract:
        """Return the same contract; `record` hears of every result."""
        values: dict[str, Any] = {
            field.name: getattr(contract, field.name) for field in dataclasses.fields(contract)
        }
        made = cls(**values)
        object.__setattr__(made, "_found", None)
        object.__setattr__(made, "_record", record)
        return made

    def findings(self, train: Rows, held_out: Rows) -> Findings:
        """Check both files against the contract; an empty list when all holds."""
        if self._found is None or self._found[0] is not train or self._found[1] is not held_out:
            # super() without arguments does not work here: slotted dataclasses are made twice.
            object.__setattr__(self, "_found", (train, held_out, Contract.findings(self, train, held_out)))
            assert self._found is not None
            self._record(self._found[2])
        return self._found[2]


def suite_findings(
    experiment: Experiment, contract: Contract, train: Rows, held_out: Rows
) -> Iterator[Finding]:
    """Yield what keeps a row of a suite from being asked as it stands there, or from showing what was forgotten."""
    trained = {row.digest: row.place for row in train} if experiment.paths.suites else {}
    for name, relative in experiment.paths.suites.items():
        rows = _rows(experiment, contract, relative, name)
        yield from rows.defects
        yield from check_conversations(contract, (), rows)
        if contract.tokenization is not None:
            yield from asked_findings(rows, contract.tokenization)
        for row in rows:
            if place := trained.get(row.digest):
                read = f"the row of suite {name!r} is trained on: {place}"
                yield finding("leak/suite", read, file=row.file, line=row.line, digest=row.digest)


def dev_findings(
    contract: Contract, read_dev: Callable[[], Rows | None], train: Rows, held_out: Rows
) -> Iterator[Finding]:
    """Yield what keeps an adapter, or a prompt, from being chosen on the development rows."""
    dev = read_dev()
    if dev is None:
        return
    nothing = Rows((), path=dev.path, split=dev.split)
    yield from (*dev.defects, *dev.notes)
    if not dev:
        yield finding("dev/none", "no row to choose on", file=dev.path)
    elif len(dev) < FEW_DEV_ROWS:
        yield finding("dev/few-rows", f"{len(dev)} rows to choose on", file=dev.path)
    yield from check_conversations(contract, dev, nothing)
    yield from check_outputs(contract, dev, nothing)
    yield from check_dev_rows(contract, dev, (("trained on", train), ("held out", held_out)))


def replayed_findings(experiment: Experiment, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield what keeps prompts from being replayed; that they cannot be read is told where they are needed."""
    replay, drift = experiment.training.replay, experiment.drift
    if replay is None:
        return
    with suppress(PromptsError):
        prompts = replay_prompts(experiment.root, replay)
        measured = neutral_rows(experiment.root, drift.prompts) if drift.measure else None
        yield from replay_findings(replay, prompts, measured, train, held_out)


def base_findings(experiment: Experiment, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield which commit a branch or tag of the hub stands for here, where the base is named by one."""
    name, revision = experiment.base_model, experiment.revision
    snapshot = None if experiment.local_base() else cached_snapshot(name, revision)
    if snapshot is not None and snapshot.name != revision:
        read = f"{revision or 'main'} of {name} is commit {snapshot.name} in the cache here"
        yield finding("base/revision", read, file=experiment.file, line=line_of(experiment, ("base_model",)))


def few_shot_findings(
    experiment: Experiment,
    tokenization: Tokenization | None,
    label_field: str | None,
    train: Rows,
    held_out: Rows,
) -> Iterator[Finding]:
    """Yield why the prompt-only arm cannot be asked as it is written down: too few rows, or too small a context."""
    prompt = experiment.prompt
    if not prompt.few_shot or not train:
        return
    say = partial(
        finding, "tokens/few-shot", file=experiment.file, line=line_of(experiment, ("prompt", "few_shot"))
    )
    shots = choose_shots(train, prompt.few_shot, experiment.training.seed, label_field)
    if len(shots) < prompt.few_shot:
        read = f"prompt.few_shot is {prompt.few_shot}, and {train.path} has {len(shots)} different rows"
        yield say(read)
    elif tokenization is not None and tokenization.limits.room is not None:
        rows = longest(held_out)
        pairs = [
            Pair(format_prompt(row, prompt, shots), format_pair(row, prompt).completion, row.tools)
            for row in rows
        ]
        counts = tokenization.count(pairs)
        if refused := next((count.refused for count in counts if count.refused), ""):
            alone = [format_pair(row, prompt) for row in rows]
            if any(count.refused for count in tokenization.count(alone)):
                return  # the rows are refused without solved rows too, and chat/refused says so
            yield say(f"prompt.few_shot puts solved rows before each question, and {refused}")
            return
        worst = max(zip(counts, rows, strict=True), key=lambda pair: pair[0].prompt, default=None)
        if worst is not None and 0 < tokenization.limits.room < worst[0].prompt:
            read = (
                f"prompt.few_shot {prompt.few_shot} makes {worst[0].prompt} tokens of {worst[1].place}, and "
                f"generation.max_new_tokens leaves {tokenization.limits.room}"
            )
            yield say(read)


def trained_turns(experiment: Experiment, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield held-out conversations of which an answer before the last is asked for and trained on."""
    if experiment.prompt.turns == "last":
        return
    taught = turn_by_turn(train) if experiment.training.assistant_turns == "all" else train
    places = {row.digest: row.place for row in taught}
    whole = {row.digest for row in held_out}  # the other checks see to these
    for case in turn_by_turn(held_out):
        if case.digest in places and case.digest not in whole:
            read = f"{case.id} is trained on: {places[case.digest]}"
            yield finding("leak/exact", read, file=case.file, line=case.line, digest=case.digest)


def file_of(experiment: Experiment, suite: str | None) -> str:
    """Return the held-out file of a suite; None is `eval_file`. One that is not named fails the test."""
    paths = experiment.paths
    if suite is not None and suite not in paths.suites:
        known = ", ".join(paths.suites) or "none"
        pytest.fail(
            f"eval_rule(suite={suite!r}): no such suite under paths.suites; known: {known}", pytrace=False
        )
    return paths.eval_file if suite is None else paths.suites[suite]


def read(context: Context, contract: Contract, relative: str, split: str) -> Rows:
    """Read the rows of a file and record their profile."""
    return _profiled(context, contract, _rows(context.experiment, contract, relative, split))


def _profiled(context: Context, contract: Contract, rows: Rows) -> Rows:
    counted = contract.tokenization.table(rows) if contract.tokenization else None
    context.record(("data", rows.split), profile(rows, contract, counted))
    return rows


def taught(context: Context, contract: Contract) -> Taught:
    """Read what is trained on and what is chosen on: a file of its own, a share of the training rows, or nothing."""
    experiment = context.experiment
    rows = _rows(experiment, contract, experiment.paths.train_file, "train")
    dev = None
    if experiment.paths.dev_file is not None:
        dev = _rows(experiment, contract, experiment.paths.dev_file, "dev")
    elif experiment.split is not None:
        rows, dev = set_aside(rows, experiment.split.dev, contract.label_of)
    return Taught(_profiled(context, contract, rows), dev and _profiled(context, contract, dev))


def _rows(experiment: Experiment, contract: Contract, relative: str, split: str) -> Rows:
    return read_rows(
        experiment.root,
        relative,
        split,
        max_line_bytes=contract.max_line_bytes,
        columns=experiment.paths.columns,
    )


def record_overlap(context: Context, train: Rows, held_out: Rows) -> None:
    """Record how many held-out rows share text with training rows; not for so many that memory would be short."""
    if len(train) <= OVERLAP_ROWS:  # it holds every n-gram of the training rows
        context.record(("data", "overlap"), overlap(train, held_out))


def trained_after_a_look(book: LookBook, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield training rows that a look judged and that are held out no more, whatever their file was called.

    Rows are known by what they say, question and answer; a paraphrase is another row. Without a look nothing is read.
    """
    looks = book.judged(row.digest for row in train)
    if not looks:
        return
    today = frozenset(row.digest for row in held_out)
    judged = frozenset().union(*(look.rows for look in looks)) - today  # those of today are leak/exact
    kept = {look: len(look.rows & today) for look in looks}
    for row in train:
        digest = row.digest
        if digest in judged:
            at_this_row = [look for look in looks if digest in look.rows]
            worst = max(at_this_row, key=lambda look: (kept[look], look.at_ns))
            rule = "leak/judged" if kept[worst] else "leak/was-held-out"
            read = (
                f"{_told(worst, len(at_this_row))}, with {kept[worst]} of the {len(today)} rows held out now"
            )
            yield finding(rule, read, file=row.file, line=row.line, digest=digest)


def _told(look: Judged, times: int) -> str:
    when = datetime.fromtimestamp(look.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    by = f" of experiment {look.experiment!r}" if look.experiment else ""
    others = f" (one of {times} at it)" if times > 1 else ""
    return f"look {look.k}{by} on {when}{others} judged this row"
