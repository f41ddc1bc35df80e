"""Set our times against plain scripts for the same work, pairwise and in turns, and print the table.

    python -m benchmarks.speed [--runs N] [--steps N] [--rows N] [--project FOLDER] [--lm-eval PYTHON]
                               [--device cuda] [--only WORD ...]

Ours and theirs run in turns; a row shows the median of each in processor seconds (other programs on the machine cost
turns, not processor time) and the median ratio of the pairs. On a card it shows seconds by the clock: waiting for the
card is what they are spent on. What both sides do stands in `both_sides`. `--lm-eval` is a Python that has
lm-evaluation-harness; without it that row says so.

All of it takes about twenty minutes of an idle core, `--runs 1` a third of that. `--only` runs the rows whose label
holds one of the words: `--only cold` the whole experiment and the plan, `--only stored` what a stored run takes.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.both_sides import ROOT, Task, spent
from benchmarks.memory_plan import traced

LONG = 60
SHORT = 20
WIDTH = 52


def pair(ours: str, theirs: str, task: Task, runs: int, folder: Path, python: str = sys.executable) -> str:
    """Run both sides in turns, each pair in a folder of its own; return the row's figures."""
    found = []
    for number in range(runs):
        kind = "-grouped" if task.grouped else "-mixed" if task.mixed else ""
        place = folder / f"{ours}-{number}{kind}"
        place.mkdir(exist_ok=True)
        sides = [(ours, sys.executable), (theirs, python)]
        order = sides if number % 2 == 0 else sides[::-1]
        took = {part: spent(part, task, place, runner) for part, runner in order}
        found.append((took[ours], took[theirs]))
    mine, other = (statistics.median(side) for side in zip(*found, strict=True))
    ratio = statistics.median(one / two for one, two in found)
    return f"{mine:8.1f} s {other:8.1f} s   {ratio:5.2f}"


def alone(seconds: list[float]) -> str:
    """Return the figures of a row that nothing stands against."""
    return f"{statistics.median(seconds):8.1f} s          -       -"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, help=f"of every training (default: {LONG}, and {SHORT} where slow)"
    )
    parser.add_argument("--rows", type=int, default=48, help="to answer, of the held-out ones")
    parser.add_argument("--project", type=Path, default=ROOT / "example_project")
    parser.add_argument("--lm-eval", default=sys.executable)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="rows whose label holds a word"
    )
    args = parser.parse_args()
    named = ("torch", "transformers", "peft", "trl", "pytest")
    packages = ", ".join(f"{name} {version(name)}" for name in named)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, one thread; Python {platform.python_version()}, {packages}"
    )
    seconds = "processor seconds" if args.device == "cpu" else f"seconds by the clock on {args.device}"
    print(f"{args.project.name}; {seconds}, median of {args.runs}\n")
    print(f"{'':{WIDTH}}      ours      plain   ratio", flush=True)
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        unseen = shutil.ignore_patterns(".finetune", "finetune-record", "__pycache__")
        shutil.copytree(args.project, project, ignore=unseen)
        task = Task(project.resolve(), args.steps or LONG, args.rows, device=args.device)
        short = task._replace(steps=args.steps or SHORT)
        for label, row in table(task, short, args.runs, args.lm_eval, Path(name)):
            if any(word in label for word in args.only):
                print(f"{label:{WIDTH}}{row()}", flush=True)


def table(
    task: Task, short: Task, runs: int, lm_eval: str, folder: Path
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the rows, each with what measures it; `short` is the task with fewer steps, where a pair takes minutes."""
    yield (
        f"training stage, rows as they are, {task.steps} steps",
        lambda: pair("ours_train", "plain_train", task, runs, folder),
    )
    yield (
        f"answers of the base, {task.rows} rows, without loading",
        lambda: pair("ours_answers", "plain_answers", task, runs, folder),
    )
    yield "  over lm-evaluation-harness", lambda: harness(task, runs, lm_eval, folder)
    yield (
        f"whole cold experiment, over three scripts, {short.steps} steps",
        lambda: pair("ours_session", "plain_scripts", short, runs, folder),
    )
    yield "the same with everything stored", lambda: stored(short, runs, folder)
    yield "a cold plan of a 7B QLoRA training", lambda: alone([traced(2048).cpu_s for _ in range(runs)])
    mixed = short._replace(mixed=True)
    yield (
        f"training stage, rows of mixed length, {mixed.steps} steps",
        lambda: pair("ours_train", "plain_train", mixed, runs, folder),
    )
    yield (
        "  ours with train_sampling_strategy: group_by_length",
        lambda: pair("ours_train", "plain_train", mixed._replace(grouped=True), runs, folder),
    )


def harness(task: Task, runs: int, python: str, folder: Path) -> str:
    """Set our answers against those of lm-evaluation-harness, if that Python has it."""
    there = subprocess.run([python, "-c", "import lm_eval"], capture_output=True, check=False)
    if there.returncode:
        return "not installed (pip install lm-eval, and name that Python with --lm-eval)"
    return pair("ours_answers", "harness_answers", task, runs, folder, python)


def stored(task: Task, runs: int, folder: Path) -> str:
    """Time the sessions that find everything in the store of the first whole one, which is made where it is missing."""
    place = folder / "ours_session-0"
    if not place.exists():
        place.mkdir()
        spent("ours_session", task, place)
    return alone([spent("ours_session", task, place) for _ in range(runs)])


if __name__ == "__main__":
    main()
