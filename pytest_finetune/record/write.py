"""Write the record into its folder: record.json, decision.md and the raw outputs of every arm."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedRun
from pytest_finetune.record.views.note import decision_note

Answers = Mapping[str, Mapping[str, Sequence[Json]]]

OUTPUTS: Final = "outputs"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_RECORD_ORDER: Final = (
    "schema_version", "created", "project", "command", "exit_status", "plugin_version", "notes",
    "experiments", "tests",
)  # fmt: skip
_EXPERIMENT_ORDER: Final = (
    "name", "task", "decision", "key", "key_fields", "key_changed", "changes", "config_file", "config", "overrides",
    "checksums", "charter", "environment", "hardware", "data", "memory", "training", "arms", "comparisons",
    "runtime_match", "recipe", "drift", "rules", "held_out",
)  # fmt: skip


def write_record(directory: Path, record: Json, answers: Answers, run: RecordedRun | None = None) -> None:
    """Write `record.json`, `decision.md` and `outputs/` into `directory`, each file atomically.

    `record` is what `as_written` gives, so that the note tells what the file does; `run` is the same, read already.
    Outputs that an earlier record in this folder names, and this one does not, are removed; no other file is.
    `report.html` is written by pytest-html.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stale = _named_outputs(earlier(directory / "record.json"))
    written = _write_outputs(directory, answers)
    _replace(directory / "decision.md", decision_note(run or record))
    _replace(directory / "record.json", record_json(record))
    for name in sorted(stale - written):
        _remove_output(directory, name)


def size_of(record: Json, answers: Answers) -> int:
    """Return how many bytes `write_record` writes, but for the note."""
    rows = (row for arms in answers.values() for answered in arms.values() for row in answered)
    return len(record_json(record).encode()) + sum(len(_dumps(row).encode()) + 1 for row in rows)


def record_json(record: Json, indent: int | None = 1) -> str:
    """Render a record with a stable key order and a trailing newline; NaN and infinity become null.

    Without indentation it takes a third of the time.
    """
    return _dumps(_ordered(_finite(record)), indent=indent) + "\n"


def as_written(record: Json) -> dict[str, Any]:
    """Return a record as it is read back from its file, so that every view shows what the file gives."""
    read: dict[str, Any] = json.loads(record_json(record, indent=None))
    return read


def outputs_path(experiment: str, arm: str, several: bool) -> str:
    """Name the file of one arm's raw outputs, relative to the record."""
    folders = (OUTPUTS, _file_name(experiment)) if several else (OUTPUTS,)
    return str(PurePosixPath(*folders, f"{_file_name(arm)}.jsonl"))


def _file_name(name: str) -> str:
    """Make a name safe for every file system; a changed one gets a digest, so that no two names meet."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")
    if safe == name and 0 < len(name) <= 80:
        return name
    return f"{safe[:60]}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip("-")


def _write_outputs(directory: Path, answers: Answers) -> set[str]:
    several = len(answers) > 1
    written = set()
    for experiment, by_arm in answers.items():
        for arm, rows in by_arm.items():
            name = outputs_path(experiment, arm, several)
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, "".join(f"{_dumps(row)}\n" for row in rows))
            written.add(name)
    return written


def earlier(path: Path) -> Json:
    """Read the record that stands there; an unreadable one is empty and names no files, so none is removed for it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _named_outputs(record: Json) -> set[str]:
    return {name for one in RecordedRun.of(record).experiments for name in one.outputs}


def _remove_output(directory: Path, name: str) -> None:
    """Remove one stale output and the folder that it leaves empty; refuse anything outside `outputs/`."""
    root, path = (directory / OUTPUTS).resolve(), (directory / name).resolve()
    if root not in path.parents or path.suffix != ".jsonl" or not path.is_file():
        return
    path.unlink()
    if path.parent != root and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _replace(path: Path, text: str) -> None:
    """Write beside `path`, then rename over it: a reader sees the old file or the new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _dumps(value: object, indent: int | None = None) -> str:
    """Render JSON readably; lone surrogates (a model can emit halves of a character) stay escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    if _SURROGATE.search(text):
        return json.dumps(value, allow_nan=False, indent=indent, default=_plain)
    return text


def _plain(value: object) -> object:
    """Turn the frozen containers of a record into what JSON knows."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a record holds no {type(value).__name__}: {value!r}")


_LEAVES: Final = frozenset({str, int, bool, type(None)})  # a record has a million of them


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in _LEAVES else _finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ordered(record: dict[str, Any]) -> dict[str, Any]:
    """Put what a reader looks for first; below the named keys the order is alphabetical."""
    record = _first(record, _RECORD_ORDER)
    if isinstance(record.get("experiments"), list):
        record["experiments"] = [
            _first(one, _EXPERIMENT_ORDER) if isinstance(one, dict) else one for one in record["experiments"]
        ]
    return record


def _first(mapping: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    order = [key for key in order if key in mapping]
    return {key: _sorted(mapping[key]) for key in (*order, *sorted(mapping.keys() - set(order)))}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if not isinstance(value, list):
        return value
    return [item if type(item) in _LEAVES else _sorted(item) for item in value]
