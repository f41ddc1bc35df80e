"""Run the commands of the tutorial for real, write under each what it printed, and take a picture of the page.

    python -m docs.first_hour [FOLDER]

`docs/tutorial.md` is the script: a block whose first line is ``# FILE`` is written as that file, and each command of a
``console`` block is run, in their order on the page. The rows are 300 of `example_project`, as one CSV file. So is
the base model, with a chat template; nothing is fetched. FOLDER is kept, with its store and its record; without one a
temporary folder is used. `tests/docs/test_tutorial.py` runs what needs no model.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.chromium import CHROMIUM, Browser

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "tutorial.md"
PICTURE: Final = ROOT / "docs" / "images" / "first-hour.png"
EXAMPLE: Final = ROOT / "example_project"
BASE: Final = EXAMPLE / "models" / "ticket-lm"
TEMPLATE: Final = ROOT / "examples" / "tools" / "chat_template.jinja"
SHOWN_AS: Final = "/home/you/tickets"
BLOCK: Final = re.compile(r"```(console|yaml|python)\n(.*?)```", re.DOTALL)


def put_rows(file: Path) -> None:
    """Write the tickets as a person has them: one CSV file with a head."""
    lines = (EXAMPLE / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    rows = [json.loads(line) for line in lines]
    asked = "Classify the support ticket priority: critical, high, medium or low."
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["instruction", "ticket", "priority"])
        table.writerows([asked, row["input"], json.loads(row["output"])["priority"]] for row in rows)


def put_base(folder: Path) -> None:
    """Put the small model of the example into a project, with a chat template."""
    shutil.copytree(BASE, folder)
    shutil.copyfile(TEMPLATE, folder / TEMPLATE.name)


def run_page(text: str, folder: Path, run: Callable[[str, Path], str | None]) -> str:
    """Return the page with what its commands print today; files that it shows are written into `folder`.

    Where `run` gives None, the command is not run and its answer stays.
    """

    def again(block: re.Match[str]) -> str:
        language, body = block.groups()
        if language == "console":
            return f"```console\n{''.join(transcript(body, folder, run))}```"
        first = body.partition("\n")[0]
        if re.fullmatch(r"# [\w./-]+\.\w+", first):
            file = folder / first.removeprefix("# ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body.partition("\n")[2], encoding="utf-8")
        return block[0]

    return BLOCK.sub(again, text)


def transcript(body: str, folder: Path, run: Callable[[str, Path], str | None]) -> Iterator[str]:
    """Yield each command of a block with its output."""
    for part in re.split(r"^(?=\$ )", body, flags=re.MULTILINE):
        if not part.startswith("$ "):
            continue
        command, _, before = part.partition("\n")
        yield f"{command}\n"
        printed = run(command.removeprefix("$ ").partition("  #")[0], folder)
        yield before if printed is None else f"{printed.rstrip().replace(str(folder), SHOWN_AS)}\n"


def in_shell(command: str, folder: Path) -> str:
    """Run one command of the tutorial in a process of its own and return what it printed."""
    program, *words = shlex.split(command)
    modules = {"pytest": "pytest", "pytest-finetune": "pytest_finetune"}
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_CACHE": str(folder.parent / "hub"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "110",
        "NO_COLOR": "1",
    }
    print(f"$ {command}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", modules[program], *words],
        cwd=folder,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, file=sys.stderr)
    return done.stdout


def main(place: Path) -> None:
    """Run the tutorial in `place` and write the page."""
    folder = place / Path(SHOWN_AS).name
    put_base(folder / "models" / BASE.name)
    put_rows(folder / "tickets.csv")
    PAGE.write_text(run_page(PAGE.read_text(encoding="utf-8"), folder, in_shell), encoding="utf-8")
    if CHROMIUM:
        with Browser() as browser:
            tab = browser.open(folder / "finetune-record" / "report.html", 1280, 1000)
            PICTURE.write_bytes(tab.screenshot())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary).resolve())
