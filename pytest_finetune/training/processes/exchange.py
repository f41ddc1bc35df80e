"""What several training processes are told and tell: JSON of ours in a private folder, never a pickle."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment.reading import experiment_json, experiment_of
from pytest_finetune.training.request import Progress, TrainingRequest, TrainingResult

if TYPE_CHECKING:
    from pytest_finetune.yamlfile import Json, JsonTree

Record = TypeVar("Record")

SCHEMA: Final = 1
MAX_BYTES: Final = 2**32
_LISTS: Final = ("log", "notes", "held_out_loss", "dev_loss")


class Failure(NamedTuple):
    """Why a process ended early; `kind` is training, memory, disk, interrupted or other, `text` is for the user."""

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
            "pairs": [pair.fields() for pair in request.pairs],
            "rows": request.rows,
            "base": request.base,
            "folder": str(request.folder.absolute()),
            "checkpoints": str(request.checkpoints.absolute()),
            "max_truncated": request.max_truncated,
            "held_out": [pair.fields() for pair in request.held_out],
            "dev": [pair.fields() for pair in request.dev],
            "devices": list(devices),
        }
        _write(self.folder / "request.json", tree)

    def request(self, rank: int, progress: Callable[[Progress], None]) -> TrainingRequest:
        """Return the request as the process of that rank trains it."""
        tree = _read(self.folder / "request.json")
        return TrainingRequest(
            experiment=experiment_of(tree["experiment"]),
            pairs=tuple(map(Pair.of, tree["pairs"])),
            rows=tuple(tree["rows"]),
            base=tree["base"],
            folder=Path(tree["folder"]),
            checkpoints=Path(tree["checkpoints"]),
            device=tree["devices"][rank],
            progress=progress,
            max_truncated=tree["max_truncated"],
            held_out=tuple(map(Pair.of, tree["held_out"])),
            dev=tuple(map(Pair.of, tree["dev"])),
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
                    yield _record(Progress, json.loads(line)), offset
        except FileNotFoundError:
            return

    def fail(self, rank: int, kind: str, text: str) -> None:
        """Write why the process of that rank ends."""
        _write(self.folder / f"error-{rank}.json", Failure(time.time(), rank, kind, text)._asdict())

    def failures(self) -> list[Failure]:
        """Return why processes ended early, the first to do so first."""
        return sorted(_record(Failure, _read(file)) for file in self.folder.glob("error-*.json"))

    def finish(self, result: TrainingResult) -> None:
        """Write what came out."""
        tree = dataclasses.asdict(result)
        del tree["folder"]
        _write(self.folder / "result.json", tree)

    def result(self, folder: Path) -> TrainingResult | None:
        """Return what came out, None when nothing did; ValueError when it cannot be read."""
        file = self.folder / "result.json"
        if not file.exists():
            return None
        tree = _read(file)
        return _record(
            TrainingResult, {**tree, **{name: tuple(tree.get(name, ())) for name in _LISTS}, "folder": folder}
        )


def _record(kind: Callable[..., Record], tree: Json) -> Record:
    """Build what was written as a record; ValueError when it has other fields."""
    try:
        return kind(**tree)
    except TypeError as error:
        raise ValueError(f"no {getattr(kind, '__name__', kind)}: {tree!r:.200} ({error})") from None


def _read(file: Path) -> JsonTree:
    """Return what `_write` wrote; ValueError for a file that is not whole, not ours, or too large to be it."""
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{file.name} has {size} bytes")
    tree = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or tree.pop("schema", None) != SCHEMA:
        raise ValueError(f"{file.name} is not of version {SCHEMA}: {tree!r:.200}")
    return tree


def _write(file: Path, tree: Json) -> None:
    staged = file.with_name(f".{file.name}")
    staged.write_text(json.dumps({"schema": SCHEMA, **tree}), encoding="utf-8")
    staged.replace(file)
