"""Everything that only a card can show, in one prepared run of less than fifteen minutes.

python benchmarks/on_a_card.py --out FOLDER [--minutes 14] [--only grid leases ...]
python benchmarks/on_a_card.py --out FOLDER --rehearse        # the same code on the CPU, with a tiny model

Each step has a time limit of its own and is left out where the minutes that remain are fewer. What it shows is
written to FOLDER as it comes: `cards.csv` (predicted and measured memory, as `pytest-finetune calibrate` writes it),
`steps.jsonl` (a line for each step, with its seconds), `speed.txt` and the sessions' own words. A rehearsal measures
nothing: it writes `rehearsed-cards.csv`, `rehearsed-steps.jsonl` and `rehearsed-speed.txt`, says so in its first and
last line, and fails where anything that it tried did.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, Final

from pytest_finetune.cli import calibration
from pytest_finetune.cli.calibrate import append
from pytest_finetune.cli.calibration import Cell
from pytest_finetune.fingerprint import package_versions
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.detect import detect

# The dearest last: where the minutes run out, the many small ones are there.
CELLS: Final = (
    *calibration.GRID,
    Cell("smollm2-135m", "lora", 8, 1024, checkpointing=True),
    Cell("qwen3-1.7b", "lora", 4, 1024),
    Cell("qwen3-1.7b", "dora", 2, 1024, checkpointing=True),
    Cell("llama-8b", "qlora", 2, 2048, checkpointing=True),
    Cell("llama-8b", "lora", 1, 2048, checkpointing=True),
)
TINY: Final = (Cell("tiny", "lora", 2, 40), Cell("tiny", "full", 2, 40, checkpointing=True))
TOO_LARGE: Final = Cell("llama-8b", "lora", 32, 2048)
NEEDED: Final = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "xdist", "pytest_html")
EXAMPLE: Final = Path(__file__).resolve().parents[1] / "example_project"
CELL_S: Final = 75
LARGE_S: Final = 150
SPEED_S: Final = 330


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
    card: Budget
    rehearse: bool

    @property
    def work(self) -> Path:
        """Return the folder for bases and projects, which are not brought back."""
        return self.out / "work"

    def file(self, name: str) -> Path:
        """Return where results of that name go; those of a rehearsal can never be taken for measured ones."""
        return self.out / (f"rehearsed-{name}" if self.rehearse else name)


def steps(place: Place) -> Iterator[Step]:
    """Yield every step, the cheapest first."""
    cells = TINY if place.rehearse else CELLS
    for cell in cells:
        name = f"grid {cell.shape} {cell.method} {cell.batch}x{cell.tokens}"
        yield Step(name, LARGE_S if cell.shape == "llama-8b" else CELL_S, partial(_compared, place, cell))
    yield Step("leases", 120, partial(_leases, place, cells[0]))
    yield Step("determinism", 120, partial(_determinism, place, cells[0]))
    yield Step(
        "out of memory", LARGE_S, partial(_out_of_memory, place, cells[0] if place.rehearse else TOO_LARGE)
    )
    yield Step("speed", SPEED_S, partial(_speed, place))


def _compared(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Set the plan of one cell against its measurement."""
    ran = []

    def session(project: Path) -> None:
        ran.append(project)
        _run(project, limit_s)

    row = calibration.compare(cell, place.card, place.work, session)
    append(place.file("cards.csv"), [row])
    wanted = "predicted_peak_bytes" if place.rehearse else "measured_peak_bytes"
    if row[wanted] is None:
        raise RuntimeError(f"no {wanted} ({row['not_planned'] or 'no reason'}): {_last_lines(ran[0])}")
    return row


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
    running = [_start(project, "-n", "1") for project in projects]
    ended: dict[str, Mapping[str, Any]] = {}
    for project, process in zip(projects, running, strict=True):
        code = _ended(process, max(1.0, limit_s - (time.perf_counter() - begun)))
        lease = (_record(project).get("hardware") or {}).get("lease")
        ended[project.name] = {"exit": code, "seconds": round(time.perf_counter() - begun, 1), "lease": lease}
    shown = {**ended, "said": [_last_lines(project) for project in projects]}
    whole = [one["exit"] == 0 and (place.rehearse or one["lease"] is not None) for one in ended.values()]
    return _held(all(whole), shown)


def _determinism(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Train twice with `training.full_determinism`, and tell whether both adapters are the same bytes."""
    digests = []
    for nth in range(2):
        project = _project(place, cell, f"determinism-{nth}")
        _run(project, limit_s // 2, "--finetune-set", "training.full_determinism=true")
        record = _record(project)
        digests.append((record.get("training") or {}).get("adapter_sha256"))
    return _held(digests[0] is not None, {"adapters": digests, "same": digests[0] == digests[1]})


def _out_of_memory(place: Place, cell: Cell, limit_s: int) -> Mapping[str, Any]:
    """Train what cannot fit, and keep what the session says of it."""
    project = _project(place, cell, "out-of-memory")
    code = _run(project, limit_s)
    ended_well = code == 0 if place.rehearse else code is not None
    return _held(ended_well, {"exit": code, "said": _last_lines(project, 30)})


def _speed(place: Place, limit_s: int) -> Mapping[str, Any]:
    """Run the table of benchmarks/speed.py on the example's rows, with a base as large as a small real one."""
    project = place.work / "speed"
    unseen = shutil.ignore_patterns(".finetune", "finetune-record", "artifacts", "__pycache__")
    shutil.copytree(EXAMPLE, project, ignore=unseen, dirs_exist_ok=True)
    file = project / "finetune.yaml"
    base = _base(place, "tiny" if place.rehearse else "smollm2-135m")
    text = file.read_text(encoding="utf-8").replace("models/ticket-lm", str(base))
    file.write_text(text, encoding="utf-8")
    much = ("--runs", "1", "--steps", *(("2", "--rows", "8") if place.rehearse else ("60", "--rows", "180")))
    rows = ("--only", "training stage, from", "answers of the base", "whole cold", "everything stored")
    words = ("--device", place.card.device, "--project", str(project), *much, *rows)
    with place.file("speed.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("speed.py")), *words],
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        code = _ended(process, limit_s)
    lines = place.file("speed.txt").read_text(encoding="utf-8").splitlines()
    if code != 0:
        raise RuntimeError(f"the table ended with {code}: {lines[-3:]}")
    return {"table": lines}


def _held(well: bool, shown: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a step shows; a step that did not do what it is for has failed, and says all the same."""
    if not well:
        raise RuntimeError(json.dumps(shown))
    return shown


def _start(project: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (project / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def _run(project: Path, limit_s: float, *words: str) -> int | None:
    return _ended(_start(project, *words), limit_s)


def _ended(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Wait for a session; None where it took longer, and was ended with the processes that it had started."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _record(project: Path) -> Mapping[str, Any]:
    file = project / "finetune-record/record.json"
    if not file.is_file():
        return {}
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["experiments"][0]
    return found


def _last_lines(project: Path, count: int = 6) -> list[str]:
    return (project / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-count:]


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
        try:
            # A rehearsal shows that the code runs, on a machine that may be slow: it is only held to all its minutes.
            limit = left if place.rehearse else min(step.limit_s, left)
            shown = dict(step.show(int(limit)))
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
    place = Place(options.out.resolve(), card, options.rehearse)
    said = {"rehearsal": "nothing here was measured on a card"} if place.rehearse else {}
    _write(place, {**said, "card": card.as_json(), "versions": package_versions()})
    failed = run(place, options.minutes, options.only)
    _write(place, {**said, "failed steps": failed})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
