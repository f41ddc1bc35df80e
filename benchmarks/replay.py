"""Train one experiment with and without replay, and print what each keeps of the base and gains on its task.

    python -P benchmarks/replay.py [--project FOLDER] [--shares 0 0.05 0.1] [--set KEY=VALUE ...] [--work FOLDER]

Every share is a whole session (`pytest --finetune`) in a copy of the project; all of them share one store, so the base
answers once. The table shows, of the forty neutral prompts, how many the tuned model answers in the task's format and
how many answers are other than the base's, the mean token KL from the base, and the gain over the base.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "peft", "trl")
LEFT = (".finetune", "finetune-record", "artifacts", "__pycache__", ".pytest_cache")


def judged(project: Path, share: float, settings: Sequence[str]) -> dict[str, Any]:
    """Run one share, and return the experiment of its record."""
    words = [sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider"]
    if share:
        settings = [*settings, f"training.replay={{prompts: neutral, share: {share}}}"]
    words += [f"--finetune-set={setting}" for setting in settings]
    record = project / "finetune-record" / "record.json"
    record.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if not record.is_file():
        raise SystemExit(f"share {share:g} left no record:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))["experiments"][0]
    if not found.get("decision") or not found.get("drift"):
        raise SystemExit(f"share {share:g} decided nothing:\n{done.stdout[-3000:]}")
    return found


def row(share: float, experiment: dict[str, Any]) -> str:
    """Lay out what one share came to."""
    primary = next(name for name, rule in experiment["rules"].items() if rule["primary"])
    gain = next(
        one for one in experiment["comparisons"] if (one["rule"], one["against"]) == (primary, "baseline")
    )
    drift, replay = experiment["drift"], experiment["training"].get("replay") or {"rows": 0, "left_out": 0}
    low, high = gain["interval"]
    null = drift.get("null_changed")
    cells = (
        f"{share:g}",
        f"{replay['rows']}" + (f" ({replay['left_out']} left out)" if replay["left_out"] else ""),
        f"{drift['like_task']['tuned']} of {drift['prompts']}",
        f"{drift['answers_changed']} of {drift['prompts']}",
        "-" if null is None else f"{null} of {drift['prompts']}",
        "-" if drift["mean_kl"] is None else f"{drift['mean_kl']:.2f}",
        f"{100 * gain['gain']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})",
        experiment["decision"]["verdict"],
    )
    return "| " + " | ".join(cells) + " |"


def table(project: Path, shares: Sequence[float], settings: Sequence[str]) -> Iterator[str]:
    """Yield the table's lines, each as soon as it is known."""
    yield (
        "| share | answers replayed | in the task's format | answers changed | changed by a random adapter | "
        "mean token KL | gain over the base | verdict |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for share in shares:
        yield row(share, judged(project, share, settings))


def main() -> None:
    """Print the table for one project."""
    parser = argparse.ArgumentParser(description="What replay keeps of the base, and what it costs.")
    parser.add_argument("--project", type=Path, default=ROOT / "example_project")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, help="a folder for the copy, kept; without it a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copy = (chosen.work or Path(scratch)) / chosen.project.name
        if not copy.exists():
            shutil.copytree(chosen.project, copy, ignore=shutil.ignore_patterns(*LEFT))
        print(
            f"{chosen.project.name}: {', '.join(chosen.settings) or 'as it stands'}; Python {platform.python_version()}"
        )
        print(", ".join(f"{name} {version(name)}" for name in PACKAGES), end="\n\n", flush=True)
        for line in table(copy, chosen.shares, chosen.settings):
            print(line, flush=True)


if __name__ == "__main__":
    main()
