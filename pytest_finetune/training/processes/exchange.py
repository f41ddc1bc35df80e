"""What several training processes are told and tell: JSON in a private folder, checked on arrival, never a pickle."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment.as_json import experiment_json, experiment_of
from pytest_finetune.training.request import Progress, TrainingRequest, TrainingResult

KINDS: Final = ("training", "memory", "interrupted", "other")
_COUNTS: Final = ("steps", "peak_bytes", "trainable", "parameters", "allocated_bytes", "resumed_from")
_TABLES: Final = ("tokens", "measured")
_LISTS: Final = ("log", "held_out_loss")


class Failure(NamedTuple):
    """Why a process ended early: when, its rank, one of KINDS, and the text for the user."""

    at_s: float
    rank: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """The folder between the session and its training processes; nobody else may read it, for it holds the rows."""

    folder: Path

    def ask(self, request: TrainingRequest, devices: Sequence[str]) -> None:
        """Write what is to be trained; the process of rank n computes on `devices[n]`."""
        tree = {
            "experiment": experiment_json(request.experiment),
            "pairs": request.pairs,
            "rows": request.rows,
            "base": request.base,
            "folder": str(request.folder.absolute()),
            "checkpoints": str(request.checkpoints.absolute()),
            "max_truncated": request.max_truncated,
            "held_out": request.held_out,
            "devices": list(devices),
        }
        _write(self.folder / "request.json", tree)

    def request(self, rank: int, progress: Callable[[Progress], None]) -> TrainingRequest:
        """Return the request as the process of that rank trains it."""
        tree = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
        return TrainingRequest(
            experiment=experiment_of(tree["experiment"]),
            pairs=tuple(_pair(pair) for pair in tree["pairs"]),
            rows=tuple(_text(place) for place in tree["rows"]),
            base=_text(tree["base"]),
            folder=Path(_text(tree["folder"])),
            checkpoints=Path(_text(tree["checkpoints"])),
            device=_text(tree["devices"][rank]),
            progress=progress,
            max_truncated=int(_number(tree["max_truncated"])),
            held_out=tuple(_pair(pair) for pair in tree["held_out"]),
        )

    def forget_request(self) -> None:
        """Remove the rows from the disk."""
        (self.folder / "request.json").unlink()

    def ask_to_stop(self) -> None:
        """Ask the processes to end after the step in progress."""
        (self.folder / "stop").touch()

    def asked_to_stop(self) -> bool:
        """Tell whether the processes were asked to end."""
        return (self.folder / "stop").exists()

    def tell(self, progress: Progress) -> None:
        """Add a line about a step that is done."""
        with (self.folder / "progress.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(dataclasses.asdict(progress)) + "\n")

    def told(self, offset: int) -> Iterator[tuple[Progress, int]]:
        """Yield each step told after `offset`, with the offset behind it."""
        try:
            with (self.folder / "progress.jsonl").open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        return
                    offset += len(line)
                    yield progress_of(json.loads(line)), offset
        except FileNotFoundError:
            return

    def fail(self, rank: int, kind: str, text: str) -> None:
        """Write why the process of that rank ends."""
        _write(self.folder / f"error-{rank}.json", Failure(time.time(), rank, kind, text)._asdict())

    def failures(self) -> list[Failure]:
        """Return why processes ended early, the first to do so first."""
        return sorted(failure_of(_read(file)) for file in self.folder.glob("error-*.json"))

    def finish(self, result: TrainingResult) -> None:
        """Write what came out."""
        tree = dataclasses.asdict(result)
        del tree["folder"]
        _write(self.folder / "result.json", tree)

    def result(self, folder: Path) -> TrainingResult | None:
        """Return what came out, None when nothing did; ValueError when it has another shape."""
        file = self.folder / "result.json"
        return result_of(_read(file), folder) if file.exists() else None


def progress_of(tree: Any) -> Progress:
    """Build a step's progress; ValueError when the tree has another shape."""
    _fields(tree, Progress)
    numbers: dict[str, Any] = {
        name: None if value is None else _number(value) for name, value in tree.items()
    }
    return Progress(**{**numbers, "step": int(_number(tree["step"])), "steps": int(_number(tree["steps"]))})


def failure_of(tree: Any) -> Failure:
    """Build a failure; ValueError when the tree has another shape."""
    if not isinstance(tree, dict) or set(tree) != set(Failure._fields) or tree["kind"] not in KINDS:
        raise ValueError(f"no failure: {tree!r:.200}")
    return Failure(_number(tree["at_s"]), int(_number(tree["rank"])), tree["kind"], _text(tree["text"]))


def result_of(tree: Any, folder: Path) -> TrainingResult:
    """Build the result of a training into `folder`; ValueError when the tree has another shape."""
    if isinstance(tree, dict):
        tree = {**tree, "folder": folder}
    _fields(tree, TrainingResult)
    checked: dict[str, Any] = {name: _count(tree[name]) for name in _COUNTS}
    checked |= {name: {_text(key): int(_number(n)) for key, n in tree[name].items()} for name in _TABLES}
    checked |= {name: tuple(_entry(entry) for entry in tree[name]) for name in _LISTS}
    return TrainingResult(
        folder=folder,
        seconds=_number(tree["seconds"]),
        final_loss=None if tree["final_loss"] is None else _number(tree["final_loss"]),
        notes=tuple(_text(note) for note in tree["notes"]),
        **checked,
    )


def _fields(tree: Any, kind: type[Any]) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(tree, dict) or set(tree) != names:
        raise ValueError(f"no {kind.__name__}: {tree!r:.200}")


def _entry(tree: Any) -> Mapping[str, float]:
    if not isinstance(tree, dict):
        raise ValueError(f"no entry of a log: {tree!r:.80}")
    return {_text(name): _number(value) for name, value in tree.items()}


def _pair(tree: Any) -> Pair:
    prompt, completion = tree
    if not all(isinstance(part, str | list) for part in (prompt, completion)):
        raise ValueError(f"no pair of prompt and completion: {tree!r:.80}")
    return Pair(prompt, completion)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.80} is no number")
    return value


def _count(value: Any) -> int | None:
    return None if value is None else int(_number(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text")
    return value


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, tree: Any) -> None:
    staged = file.with_name(f".{file.name}")
    staged.write_text(json.dumps(tree), encoding="utf-8")
    staged.replace(file)
