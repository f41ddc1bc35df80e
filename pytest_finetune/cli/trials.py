"""Trials of an experiment, in a pytest session of their own, for the commands that choose by development rows."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.project import Project, folder_of
from pytest_finetune.experiment import load_experiment, parse_set
from pytest_finetune.experiment.over import Choice, Over
from pytest_finetune.judging.development import NothingToChooseOn
from pytest_finetune.wording import counted
from pytest_finetune.yamlfile import Json, JsonTree

_ALONE: Final = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER")
"""What a surrounding pytest would tell the one that is started here."""
_STDERR: Final = 2


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what commands with trials share."""
    arguments.add_experiment(command)
    command.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="a setting that is tried: lora.r=2,4,8,16",
    )


def checked(args: argparse.Namespace, overs: Sequence[Over]) -> Project:
    """Read the experiment, with the first and the last of what is tried too, so that a mistake is told at once."""
    project = Project.of(args)
    own = project.experiment
    if not own.has_dev_rows:
        raise NothingToChooseOn(own.file)
    ends = [
        (one.values[0], one.values[-1]) if isinstance(one, Choice) else (one.low, one.high) for one in overs
    ]
    for place in (0, 1):
        more = {over.key: values[place] for over, values in zip(overs, ends, strict=True)}
        load_experiment(own.root, own.file, {**parse_set(args.overrides), **more})
    return project


def run_trials(args: argparse.Namespace, more: Json) -> JsonTree:
    """Run the trials of a task and return what was found; KeyboardInterrupt where somebody stopped them."""
    flags = ["--rootdir=.", *([f"--finetune-store={args.store}"] if args.store else [])]
    task = {
        "experiment": args.experiment,
        "overrides": args.overrides,
        "flags": flags,
        "over": args.over,
        **more,
    }
    environment = {name: value for name, value in os.environ.items() if name not in _ALONE}
    with tempfile.TemporaryDirectory(prefix="trials-") as scratch:
        asked, answered = Path(scratch) / "task.json", Path(scratch) / "found.json"
        asked.write_text(json.dumps(task), encoding="utf-8")
        words = [sys.executable, "-P", "-m", "pytest_finetune.suite.trials", str(asked), str(answered)]
        # What the session tells is for the reader of the terminal; standard output is the answer's alone.
        process = subprocess.Popen(words, cwd=folder_of(args), env=environment, stdout=_STDERR)
        _wait(process)
        found: JsonTree = json.loads(answered.read_bytes()) if answered.is_file() else {"trials": []}
    if found.get("interrupted"):
        done = counted(len(found["trials"]), "trial")
        print(f"stopped after {done}: what is trained stays, and the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt
    if "error" in found or not found["trials"]:
        raise CommandError(_why(found))
    return found


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for the session; a Ctrl-C reaches it as well, and it ends with a checkpoint of its training."""
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            continue
        return


def _why(found: Json) -> str:
    error = found.get("error") or "no trial was made; what pytest said stands above"
    broken = found.get("collection", ())
    if broken:
        error += "\n" + "\n".join(f"  could not be collected: {line}" for line in broken[:3])
    return str(error)
