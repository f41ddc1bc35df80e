"""Evidence to record: every fact at its place, the decision computed from the facts alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.record.write import outputs_path

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.judging.decision import Decision

SCHEMA_VERSION: Final = "1"
# Every key of an experiment is there, whether the run got that far or not.
_EMPTY: Final[Mapping[str, Any]] = {
    "task": None,
    "key": None,
    "key_fields": None,
    "key_changed": {},
    "changes": None,
    "config": {},
    "config_file": None,
    "overrides": {},
    "checksums": {},
    "charter": {"findings": []},
    "environment": {},
    "hardware": None,
    "data": {"findings": [], "waived": []},
    "memory": None,
    "training": None,
    "planned_arms": {},
    "noise": {},
    "prompt_candidates": None,
    "arms": {},
    "rules": {},
    "held_out": [],
    "comparisons": [],
    "pairs": [],
    "runtime_match": [],
    "drift": None,
    "decision": None,
}
_PRIVATE: Final = frozenset({"looks", "measured"})


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


def assemble(
    header: RunHeader, experiments: Sequence[Mapping[str, Any]], tests: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
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
    name: str, tree: Mapping[str, Any], held_out: Iterable[Row], decision: Decision | None, *, several: bool
) -> dict[str, Any]:
    """Return one experiment's record: its facts, its held-out rows, and what was decided on them."""
    record: dict[str, Any] = {"name": name, **_EMPTY}
    record |= {key: value for key, value in tree.items() if key not in _PRIVATE}
    record["data"] = {**_EMPTY["data"], **record["data"]}
    if record["memory"] is not None:
        record["memory"] = {**record["memory"], **tree.get("measured", {})}
    record["arms"] = {
        arm: {**facts, "rules": facts.get("rules", {}), "outputs": outputs_path(name, arm, several)}
        for arm, facts in record["arms"].items()
    }
    record["held_out"] = [_row(row) for row in held_out]
    if decision is not None:
        record["comparisons"] = [comparison.as_json() for comparison in decision.comparisons]
        record["decision"] = decision.as_json()
    return record


def _row(row: Row) -> dict[str, Any]:
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
