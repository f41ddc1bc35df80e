"""What the store keeps of a run: a summary for the table of all runs, and the facts to compare two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import digest
from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.write import record_json

RUN: Final = "run.json"
_TEXTS: Final = frozenset({"messages", "held_out", "log"})  # rows' texts stay in the record's own folder


def finished(experiment: Json) -> bool:
    """Whether a run came far enough to be remembered: something was trained or decided."""
    return bool(reading.part(experiment, "training") or reading.part(experiment, "decision"))


def name_of(experiment: Json) -> str:
    """Return the run's name in the store: the same adapter, answers, rules and decision are the same run."""
    answers = {
        arm: reading.part(experiment, "arms", arm).get("answers_sha256") for arm in reading.arms(experiment)
    }
    parts = ("name", "key", "decision", "comparisons")
    return digest([[experiment.get(part) for part in parts], answers])


def summary(record: Json, experiment: Json) -> dict[str, Any]:
    """Return one line of the table of all runs; what a run did not reach is None."""
    decision, training = reading.part(experiment, "decision"), reading.part(experiment, "training")
    rule = reading.primary(experiment)
    score = reading.part(experiment, "arms", "tuned", "rules", rule or "")
    base = reading.part(experiment, "arms", "baseline", "rules", rule or "")
    gain: Json = next(
        (
            one
            for one in reading.comparisons(experiment)
            if one.get("rule") == rule and one.get("against") == "baseline"
        ),
        {},
    )
    return {
        "created": reading.text(record, "created"),
        "experiment": reading.text(experiment, "name"),
        "task": reading.text(experiment, "task"),
        "verdict": decision.get("verdict"),
        "undecided": decision.get("undecided"),
        "primary": rule,
        "rate": reading.number(score, "rate"),
        "rate_low": (reading.span(score, "interval") or (None, None))[0],
        "rate_high": (reading.span(score, "interval") or (None, None))[1],
        "base_rate": reading.number(base, "rate"),
        "gain": reading.number(gain, "gain"),
        "gain_low": (reading.span(gain, "interval") or (None, None))[0],
        "gain_high": (reading.span(gain, "interval") or (None, None))[1],
        "look": reading.whole(decision, "looks"),
        "seconds": reading.number(training, "seconds"),
        "peak_bytes": reading.whole(training, "peak_bytes"),
        "predicted_bytes": reading.whole(reading.part(experiment, "memory"), "predicted_peak_bytes"),
        "reason": str((reading.listed(decision, "reasons") or [""])[0])[:300],
        "key": reading.text(experiment, "key"),
    }


def write_run(folder: Path, record: Json, experiment: Json) -> None:
    """Write the facts of one run without the texts of rows; digests tell later whether a row is still the same."""
    kept = {name: record.get(name) for name in ("created", "command", "exit_status", "plugin_version")}
    drift = {name: value for name, value in reading.part(experiment, "drift").items() if name != "rows"}
    told = {
        **_without_texts(experiment),
        "held_out": [_row(row) for row in reading.parts(experiment, "held_out")],
        "drift": drift or None,
    }
    facts = json.loads(record_json({"experiments": [told]}, indent=None))["experiments"][0]
    text = json.dumps({**kept, "experiment": facts}, sort_keys=True, allow_nan=False)
    (folder / RUN).write_text(text + "\n", encoding="ascii")


def _row(row: Json) -> dict[str, Any]:
    return {name: row.get(name) for name in ("id", "file", "digest")}


def _without_texts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_texts(item) for name, item in value.items() if name not in _TEXTS}
    return value
