"""Evidence to record: every fact at its place, the decision computed from the facts alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune.record.write import outputs_path
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.judging.decision import Decision

SCHEMA_VERSION: Final = "1"
# Every key of an experiment is there, whether the run got that far or not.
_NULL: Final = (
    "task", "key", "key_fields", "changes", "config_file", "hardware", "memory", "training", "prompt_candidates",
    "recipe", "drift", "decision",
)  # fmt: skip
_MAPPINGS: Final = (
    "key_changed", "config", "overrides", "checksums", "environment", "timings", "planned_arms", "noise", "arms",
    "rules",
)  # fmt: skip
_LISTS: Final = ("held_out", "comparisons", "pairs", "runtime_match")
_PRIVATE: Final = frozenset({"looks", "measured", "tracked"})


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What the record says of the session itself."""

    created: str
    command: str
    exit_status: int
    project: str
    plugin_version: str
    finetune: bool = True
    notes: Sequence[str] = ()


def assemble(header: RunHeader, experiments: Sequence[Json], tests: Iterable[Json]) -> JsonTree:
    """Return the record of a session."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": header.created,
        "project": header.project,
        "command": header.command,
        "finetune": header.finetune,
        "exit_status": header.exit_status,
        "plugin_version": header.plugin_version,
        "notes": list(header.notes),
        "experiments": list(experiments),
        "tests": list(tests),
    }


def experiment_record(
    name: str, tree: Json, held_out: Iterable[Row], decision: Decision | None, *, several: bool
) -> JsonTree:
    """Return one experiment's record: its facts, its held-out rows, and what was decided on them."""
    record: JsonTree = {"name": name, **dict.fromkeys(_NULL), "charter": {"findings": []}, "data": {}}
    record |= {**{key: {} for key in _MAPPINGS}, **{key: [] for key in _LISTS}}
    record |= {key: value for key, value in tree.items() if key not in _PRIVATE}
    checked = "findings" in record["data"]
    record["data"] = {"findings": [], "waived": [], "checked": checked, **record["data"]}
    record["memory"] = _memory(record["memory"], tree.get("measured", {}))
    record["arms"] = {
        arm: {**facts, "rules": facts.get("rules", {}), "outputs": outputs_path(name, arm, several)}
        for arm, facts in record["arms"].items()
    }
    record["held_out"] = [_row(row) for row in held_out]
    if decision is not None:
        record["comparisons"] = [comparison.as_json() for comparison in decision.comparisons]
        record["decision"] = decision.as_json()
    return record


_NO_PLAN: Final[Json] = {
    "not_planned": "no test asked for the plan",
    "predicted_peak_bytes": None,
    "breakdown": {},
    "budget_bytes": None,
    "budget_name": None,
    "budget_source": None,
    "fits": None,
}


def _memory(planned: Json | None, measured: Json) -> Json | None:
    """Join the plan and the measurement: each stands for itself, and they are compared on one card only."""
    if not measured:
        return planned
    memory = {**(planned or _NO_PLAN), **measured}
    card, source = memory.get("measured_card"), memory.get("budget_source")
    if memory["predicted_peak_bytes"] is None or not card or source is None:
        return memory
    if source == "measured" and memory["budget_name"] == card:
        return memory
    return {**memory, "not_compared": f"predicted for {memory['budget_name']}, measured on {card}"}


def _row(row: Row) -> JsonTree:
    return {
        "id": row.id,
        "line": row.line,
        "file": row.file,
        "input": row.input,
        "expected": row.expected,
        "tags": list(row.tags),
        "group": row.group,
        "digest": row.digest,
    }
