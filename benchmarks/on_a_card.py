"""Everything that only a card can show, in one prepared run of less than fifteen minutes.

python -m benchmarks.on_a_card --out FOLDER [--work FOLDER] [--minutes 14] [--only grid leases ...]
python -m benchmarks.on_a_card --out FOLDER --rehearse        # the same code on the CPU, with a tiny model

Each step has a time limit of its own, at which it is ended, and is left out where the minutes that remain are fewer or
where the machine lacks what it needs (llama.cpp for `gguf`, a second card for `shard`). What it shows is written to
FOLDER as it comes: `cards.csv` (predicted and measured memory, as `pytest-finetune calibrate` writes it), `steps.jsonl`
(a line for each step, with its seconds) and `speed.txt`. Bases (16 GB the largest), projects and the sessions' own
words lie in the folder of `--work`, else in FOLDER/work: name one elsewhere where all of FOLDER is carried home. A
rehearsal measures nothing: it writes `rehearsed-cards.csv`, `rehearsed-steps.jsonl` and `rehearsed-speed.txt`, says so
in its first and last line, and fails where anything that it tried did.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, Final

from benchmarks.card_sessions import deadline, ended, kill, last_lines, record_of, run_session, start
from pytest_finetune.answering.runtimes.gguf.tools import find_tools
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.cli import calibration
from pytest_finetune.cli.calibrate import append
from pytest_finetune.cli.calibration import Cell
from pytest_finetune.fingerprint import package_versions
from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.detect import detect

# What is dear comes after what is cheap: where the minutes run out, the many small ones are there.
SMALL: Final = (*calibration.GRID, Cell("smollm2-135m", "lora", 8, 1024, checkpointing=True))
LARGE: Final = (
    Cell("llama-8b", "qlora", 2, 2048, checkpointing=True),
    Cell("llama-8b", "lora", 1, 2048, checkpointing=True),
)
FURTHER: Final = (
    Cell("qwen3-1.7b", "lora", 4, 1024),
    Cell("qwen3-1.7b", "dora", 2, 1024, checkpointing=True),
)
TINY: Final = (Cell("tiny", "lora", 2, 40), Cell("tiny", "full", 2, 40, checkpointing=True))
TOO_LARGE: Final = Cell("llama-8b", "lora", 32, 2048)
NEEDED: Final = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "xdist", "pytest_html")
EXAMPLE: Final = Path(__file__).resolve().parents[1] / "example_project"
CELL_S: Final = 75
LARGE_S: Final = 150
SPEED_S: Final = 330
GRACE_S: Final = 10
"""A session that outlives its seconds is ended by its step, which tells why; these later the step is ended itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to show: its name, the seconds that it may take, and what to do with those that it has."""

    name: str
    limit_s: int
    show: Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the run writes, what it computes on, and whether it is a rehearsal."""

    out: Path
    work: Path
    card: Budget
    rehearse: bool

    def file(self, name: str) -> Path:
        """Return where results of that name go; those of a rehearsal can never be taken for measured ones."""
        return self.out / (f"rehearsed-{name}" if self.rehearse else name)


class LeftOut(Exception):
    """The step has nothing to show here; the message says what it would need."""


def steps(place: Place) -> Iterator[Step]:
    """Yield every step: what is cheap, what only a card can show, then what is dear, the table of times among it."""
    small = TINY if place.rehearse else SMALL
    yield from _grid(place, small)
    yield Step("leases", 120, partial(_leases, place, small[0]))
    yield Step("determinism", 120, partial(_determinism, place, small[0]))
    too_large = small[0] if place.rehearse else TOO_LARGE
    yield Step("out of memory", LARGE_S, partial(_out_of_memory, place, too_large))
    yield Step("shard", 120, partial(_shard, place, small[0]))
    yield Step("gguf", 120, partial(_gguf, place))
    yield from _grid(place, () if place.rehearse else LARGE)
    yield Step("speed", SPEED_S, partial(_speed, place))
    yield from _grid(place, () if place.rehearse else FURTHER)


def _grid(place: Place, cells: Sequence[Cell]) -> Iterator[Step]:
    for cell in cells:
        name = f"grid {cell.shape} {cell.method} {cell.batch}x{cell.tokens}"
        yield Step(name, LARGE_S if cell.shape == "llama-8b" else CELL_S, partial(_compared, place, cell))


def _compared(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Set the plan of one cell against its measurement."""
    ran = []

    def session(project: Path) -> None:
        ran.append(project)
        run_session(project, limit_s)

    row = calibration.compare(cell, place.card, place.work, session)
    append(place.file("cards.csv"), [row])
    wanted = "predicted_peak_bytes" if place.rehearse else "measured_peak_bytes"
    if row[wanted] is None:
        raise RuntimeError(f"no {wanted} ({row['not_planned'] or 'no reason'}): {last_lines(ran[0])}")
    predicted, measured = row["predicted_peak_bytes"], row["measured_peak_bytes"]
    return {"error": f"{predicted / measured - 1:+.1%}" if predicted and measured else None, **row}


def _project(place: Place, cell: Cell, name: str) -> Path:
    project = place.work / name
    calibration.write_project(cell, _base(place, cell.shape), project)
    return project


def _base(place: Place, shape: str) -> Path:
    base = place.work / shape
    if not (base / "config.json").exists():
        calibration.make_elsewhere(shape, base)
    return base


def _leases(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Let a worker of each of two sessions train on the one card: the second waits for the first's lease."""
    projects = [
        _project(place, replace(cell, tokens=cell.tokens + 2 * nth), f"lease-{nth}") for nth in range(2)
    ]
    begun = time.perf_counter()
    running = [start(project, "-n", "1") for project in projects]
    found: dict[str, Mapping[str, Any]] = {}
    try:
        for project, process in zip(projects, running, strict=True):
            code = ended(process, max(1.0, limit_s - (time.perf_counter() - begun)))
            lease = (record_of(project).get("hardware") or {}).get("lease")
            took = round(time.perf_counter() - begun, 1)
            found[project.name] = {"exit": code, "seconds": took, "lease": lease}
    finally:
        for process in running:
            kill(process)
    shown = {**found, "said": [last_lines(project) for project in projects]}
    whole = [one["exit"] == 0 and (place.rehearse or one["lease"] is not None) for one in found.values()]
    return _held(all(whole), shown)


def _determinism(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Train twice with `training.full_determinism`: both adapters are to be the same bytes."""
    digests = []
    for nth in range(2):
        project = _project(place, cell, f"determinism-{nth}")
        run_session(project, limit_s // 2, "--finetune-set", "training.full_determinism=true")
        record = record_of(project)
        digests.append((record.get("training") or {}).get("adapter_sha256"))
    same = digests[0] is not None and digests[0] == digests[1]
    return _held(same, {"adapters": digests, "same": same, "said": last_lines(project)})


def _out_of_memory(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Train what cannot fit: the session is to end by itself, and to say that the memory ran out."""
    project = _project(place, cell, "out-of-memory")
    code = run_session(project, limit_s)
    because = (record_of(project).get("gate") or {}).get("because") or ""
    ended_well = code == 0 if place.rehearse else code == 1 and "ran out of memory" in because
    return _held(ended_well, {"exit": code, "because": because, "said": last_lines(project, 30)})


def _shard(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Share one model out over two cards; on the CPU over two processes."""
    cards = len(nvidia.visible())
    if cards < 2 and not place.rehearse:
        raise LeftOut(f"`shard: true` shares a model out over two cards or more, and there is {cards}")
    project = _project(place, cell, "shard")
    shared = ("training.launcher.processes=2", "training.shard=true")
    device = ("--finetune-device=cpu",) if place.rehearse else ()
    code = run_session(
        project, limit_s, *device, *(word for one in shared for word in ("--finetune-set", one))
    )
    training = record_of(project).get("training") or {}
    shown = {"exit": code, "notes": training.get("notes"), "peak_bytes": training.get("peak_bytes")}
    return _held(code == 0, {**shown, "said": last_lines(project)})


def _gguf(place: Place, limit_s: int) -> Mapping[str, Any]:
    """Train the example for four steps, and hold the answers of a GGUF file of it against those of the trainer's."""
    try:
        find_tools()
    except AnsweringError as error:
        raise LeftOut(str(error)) from None
    project = _example(place, "gguf")
    settings = (
        "runtimes=[transformers, {name: q8_0, gguf: q8_0}]",
        "training.max_steps=4",
        "generation.max_new_tokens=8",
        "drift=false",
    )
    code = run_session(project, limit_s, *(word for one in settings for word in ("--finetune-set", one)))
    matched = (
        record_of(project).get("runtime_match") or []
    )  # four steps teach little: the verdict is no matter
    return _held(bool(matched), {"exit": code, "match": matched, "said": last_lines(project)})


def _example(place: Place, name: str) -> Path:
    """Copy the example, without what earlier runs have left in it."""
    project = place.work / name
    unseen = shutil.ignore_patterns(".finetune", "finetune-record", "artifacts", "__pycache__")
    shutil.copytree(EXAMPLE, project, ignore=unseen, dirs_exist_ok=True)
    return project


def _speed(place: Place, limit_s: int) -> Mapping[str, Any]:
    """Run the table of `benchmarks.speed` on the example's rows, with a base as large as a small real one."""
    project = _example(place, "speed")
    file = project / "finetune.yaml"
    base = _base(place, "tiny" if place.rehearse else "smollm2-135m")
    text = file.read_text(encoding="utf-8").replace("models/ticket-lm", str(base))
    file.write_text(text, encoding="utf-8")
    much = ("--runs", "1", "--steps", *(("2", "--rows", "8") if place.rehearse else ("60", "--rows", "180")))
    rows = ("--only", "as they are", "answers of the base", "whole cold", "everything stored")
    words = ("--device", place.card.device, "--project", str(project.resolve()), *much, *rows)
    with place.file("speed.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed", *words],
            cwd=EXAMPLE.parent,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        code = ended(process, limit_s)
    lines = place.file("speed.txt").read_text(encoding="utf-8").splitlines()
    if code != 0:
        raise RuntimeError(f"the table ended with {code}: {lines[-3:]}")
    return {"table": lines}


def _held(well: bool, shown: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a step shows; a step that did not do what it is for has failed, and says all the same."""
    if not well:
        raise RuntimeError(json.dumps(shown))
    return shown


def run(place: Place, minutes: float, only: Sequence[str]) -> int:
    """Show every step that the minutes allow, and write each as it ends; return how many failed."""
    end = time.perf_counter() + 60 * minutes
    failed = 0
    for step in steps(place):
        if only and not step.name.startswith(tuple(only)):
            continue
        left = end - time.perf_counter()
        if left < step.limit_s / 3:
            _write(place, {"step": step.name, "left out": f"{left:.0f} s remained"})
            continue
        begun = time.perf_counter()
        # A rehearsal shows that the code runs, on a machine that may be slow: it is only held to all its minutes.
        limit = left if place.rehearse else min(step.limit_s, left)
        try:
            with deadline(limit + GRACE_S):
                shown = dict(step.show(int(limit)))
        except LeftOut as reason:
            shown = {"left out": str(reason)}
        except Exception as error:  # whatever one step does, the next ones are tried
            failed += 1
            shown = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        _write(place, {"step": step.name, "seconds": round(time.perf_counter() - begun, 1), **shown})
    return failed


def _write(place: Place, line: Mapping[str, Any]) -> None:
    text = json.dumps(line)
    print(text[:600], flush=True)
    with place.file("steps.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def main() -> int:
    """Run it on the card that is here, or rehearse it without one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    absent = [name for name in NEEDED if util.find_spec(name) is None]
    if absent:
        parser.error(f"not installed here, and needed on a card: {', '.join(absent)}")
    options.out.mkdir(parents=True, exist_ok=True)
    card = detect("auto", options.out)
    if card.device != "cuda" and not options.rehearse:
        parser.error(f"no card is here ({card.name}): --rehearse tries the same code without one")
    work = (options.work or options.out / "work").resolve()
    place = Place(options.out.resolve(), work, card, options.rehearse)
    said = {"rehearsal": "nothing here was measured on a card"} if place.rehearse else {}
    _write(place, {**said, "card": card.as_json(), "versions": package_versions()})
    failed = run(place, options.minutes, options.only)
    _write(place, {**said, "failed steps": failed})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
