"""What the store keeps of a run: a summary for the table of all runs, and the facts to compare two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import digest
from pytest_finetune.record.lenient import Facts, Json, Span, whole
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.recipes import ONE_SEED
from pytest_finetune.record.write import record_json
from pytest_finetune.wording import counted

RUN: Final = "run.json"
_TEXTS: Final = frozenset({"messages", "held_out", "log"})  # rows' texts stay in the record's own folder


class RunLine(Facts):
    """A run in the table of all runs, as its summary told it; what it did not reach is empty."""

    created: str
    experiment: str
    task: str
    verdict: str
    primary: str
    reason: str
    key: str
    undecided: bool
    broken_off: bool
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    base_rate: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    seconds: float | None
    look: int | None
    grown: int | None
    seeds: int | None
    recipe: str
    peak_bytes: int | None
    predicted_bytes: int | None
    run: str

    @property
    def looked(self) -> str:
        """Which look it was, and how often rows had been added by then."""
        if self.look is None:
            return ""
        return f"{self.look}, rows added {counted(self.grown, 'time')}" if self.grown else str(self.look)

    @property
    def rate_span(self) -> Span | None:
        """The interval of the rate."""
        return None if self.rate_low is None or self.rate_high is None else (self.rate_low, self.rate_high)

    @property
    def gain_span(self) -> Span | None:
        """The interval of the gain."""
        return None if self.gain_low is None or self.gain_high is None else (self.gain_low, self.gain_high)

    @property
    def word(self) -> str:
        """The verdict, and whether it is one of an undecided run; none of one that was broken off."""
        if self.broken_off:
            return "broken off"
        return (self.verdict or "no decision") + " (undecided)" * self.undecided

    def as_json(self) -> dict[str, object]:
        """Return the line for a program; what was not reached is None."""
        told = {name: value for name, value in vars(self).items() if name != "recorded"}
        return {name: None if value == "" else value for name, value in told.items()}


def verdicts(runs: Sequence[RunLine]) -> str:
    """Count the verdicts of runs."""
    known = ["broken off" if run.broken_off else run.verdict for run in runs]
    order = ("keep", "iterate", "discard", "broken off")
    words = [f"{known.count(word)} {word}" for word in order if word in known]
    return ", ".join(words) or "none decided"


def rests_on(runs: Sequence[RunLine]) -> str:
    """Say what several runs of one seed each cannot tell; empty where there is nothing to compare."""
    alone = sum((run.seeds or 1) == 1 for run in runs if run.gain is not None)
    if alone < 2:
        return ""
    return f"{alone} runs rest on one seed each: {ONE_SEED} (training.seeds)"


def finished(one: RecordedExperiment) -> bool:
    """Whether a run came far enough to be remembered: something was trained or decided."""
    return bool(one.training or one.decision)


def name_of(one: RecordedExperiment) -> str:
    """Return the run's name in the store: the same adapter, answers, rules and decision are the same run."""
    answers = {arm.name: arm.answers_sha256 or None for arm in one.arms.values()}
    parts = ("name", "key", "decision", "comparisons")
    recipe = [recipe] if (recipe := one.raw.get("recipe")) else []
    return digest([[one.raw.get(part) for part in parts], answers, *recipe])


def summary(record: Json, one: RecordedExperiment) -> dict[str, object]:
    """Return one line of the table of all runs; what a run did not reach is None."""
    run = RecordedRun.of(record, experiments=(one,))
    decision, training, rule = one.decision, one.training, one.primary.name
    score, gain = one.arms["tuned"].rules[rule], one.gain_over_base(rule)
    rate_low, rate_high = score.interval or (None, None)
    gain_low, gain_high = gain.interval or (None, None)
    return {
        "created": run.created,
        "experiment": one.name,
        "task": one.task,
        "verdict": decision.verdict or None,
        "undecided": decision.undecided,
        "broken_off": run.broken_off and (one.stopped or bool(decision.undecided)),
        "primary": rule or None,
        "rate": score.rate,
        "rate_low": rate_low,
        "rate_high": rate_high,
        "base_rate": one.arms["baseline"].rules[rule].rate,
        "gain": gain.gain,
        "gain_low": gain_low,
        "gain_high": gain_high,
        "look": decision.looks,
        "seeds": len(one.recipe.seeds) or 1,
        "recipe": one.recipe.word or None,
        **({"grown": len(decision.growth.ends)} if decision.growth else {}),
        "seconds": training.seconds,
        "peak_bytes": training.peak_bytes,
        "predicted_bytes": whole(one.memory.predicted_peak_bytes),
        "reason": (decision.reasons or ("",))[0][:300],
        "key": one.key,
    }


def write_run(folder: Path, record: Json, one: RecordedExperiment) -> None:
    """Write the facts of one run without the texts of rows; digests tell later whether a row is still the same."""
    kept = {name: record.get(name) for name in ("created", "command", "exit_status", "plugin_version")}
    rows = one.held_out
    told = {
        **_without(_TEXTS, one.raw),
        "held_out": [{"id": row.id, "file": row.file or None, "digest": row.digest or None} for row in rows],
        "drift": _without({"rows"}, one.raw.get("drift")) or None,
    }
    facts = json.loads(record_json({"experiments": [told]}, indent=None))["experiments"][0]
    text = json.dumps({**kept, "experiment": facts}, sort_keys=True, allow_nan=False)
    (folder / RUN).write_text(text + "\n", encoding="ascii")


def _without(names: Set[str], value: object) -> Any:
    if isinstance(value, Mapping):
        return {name: _without(names, item) for name, item in value.items() if name not in names}
    return value
