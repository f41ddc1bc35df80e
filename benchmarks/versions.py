"""Does everything work with the libraries that are installed here? One row of the table in docs/versions.md.

python -P benchmarks/versions.py --name NAME --rows rows.jsonl     # in an environment of the matrix; `make versions`
python -P benchmarks/versions.py --rows rows.jsonl --table docs/versions.md --wanted NAME ...

In an environment: the tests of the rooms that need no model, one plan of each method, and one session that trains a few
steps of the example, asks every arm and decides. Without torch only the first. A row is written whatever it shows, and
the table tells of each environment that is wanted and has none that it was not tried, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes", "pytest")
SHOWN: Final = {
    "without a model": "without a model",
    "plans": "a plan of each method",
    "session": "train, ask, decide",
}
MODEL_FREE: Final = ("tests/judging", "tests/fingerprint", "tests/experiment", "tests/record/test_schema.py")
METHODS: Final[Mapping[str, Mapping[str, Any]]] = {
    "lora": {},
    "dora": {"dora": True},
    "nf4": {"quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "full": {"full": True},
}
CONFIG: Final = {
    "model_type": "llama",
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}
ASKED: Final = 20  # of the example's held-out rows
GOOD: Final = "works"
LEFT_OUT: Final = "-"


def installed(name: str) -> str:
    """Return the version of a package as pip names it, without the build it comes from."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return LEFT_OUT


def tests_without_a_model() -> str:
    """Run the rooms that need no model in a process of its own."""
    # What pyproject.toml says to pytest 9, older ones have to be told.
    told = ("-o", "pythonpath=.", "--import-mode=importlib", "-p", "no:cacheprovider")
    return _said([sys.executable, "-m", "pytest", "-q", "-x", *told, *MODEL_FREE], ROOT)


def plans() -> str:
    """Plan one step of each method."""
    failed = [f"{name}: {said}" for name in METHODS if (said := _plan(METHODS[name])) != GOOD]
    return "; ".join(failed) or GOOD


def _plan(method: Mapping[str, Any]) -> str:
    from pytest_finetune.memory.plan.figures import PlanError
    from pytest_finetune.memory.plan.planner import Planner
    from pytest_finetune.memory.plan.workload import Adapter, Workload

    full, quantization = method.get("full", False), method.get("quantization", "none")
    narrow = "bfloat16" if quantization != "none" else "float32"
    adapter = None if full else Adapter(rank=8, dora=method.get("dora", False), dtype=narrow)
    workload = Workload(
        config=CONFIG,
        tokens=64,
        batch=2,
        adapter=adapter,
        quantization=quantization,
        dtype="float32" if full else "bfloat16",
    )
    try:
        Planner(None).each([workload])
    except PlanError as error:
        return str(error)[:200]
    return GOOD


def session() -> str:
    """Train a few steps of the example, ask every arm and decide."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "example"
        shutil.copytree(
            ROOT / "example_project", project, ignore=shutil.ignore_patterns(".finetune", "artifacts")
        )
        _shorten(project)
        said = _said([sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider"], project)
        record = project / "finetune-record/record.json"
        if not record.is_file():
            return said
        (one,) = json.loads(record.read_text(encoding="utf-8"))["experiments"]
    decided = (one["decision"] or {}).get("verdict")
    answered = all(facts["answers"] == ASKED for facts in one["arms"].values())
    if one["training"] and one["memory"] and answered and decided:
        return GOOD
    return f"no decision: {said}"


def _shorten(project: Path) -> None:
    """Leave four steps, and few rows: what a release breaks, it breaks on one."""
    changed = {
        "finetune.yaml": {
            "num_train_epochs: 4": "max_steps: 4",
            "warmup_steps: 10": "warmup_steps: 1",
            "max_new_tokens: 48": "max_new_tokens: 8",
            "charter:": "drift: false\ncharter:",
        },
        "data/contract.yaml": {
            ", min_per_label: .+, max_share: [0-9.]+": "",
            "\nrows: .*": "",
            "\ntags: .*": "",
        },
    }
    for name, words in changed.items():
        text = (project / name).read_text(encoding="utf-8")
        for old, new in words.items():
            text, found = re.subn(old, new, text)
            if not found:
                raise SystemExit(f"{name} of the example has no {old!r} any more")
        (project / name).write_text(text, encoding="utf-8")
    for name, every in (("data/train.jsonl", 8), ("eval/check.jsonl", 180 // ASKED)):
        lines = (project / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (project / name).write_text("".join(lines[::every]), encoding="utf-8")


def _said(command: Sequence[str], folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return GOOD
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failed = [
        line for line in lines if line.startswith(("FAILED ", "ERROR "))
    ]  # what failed, before how many did
    return [*failed, *reversed(lines), "it ended without a word"][0][:200]


def row(name: str) -> dict[str, Any]:
    """Return what this environment shows."""
    trains = util.find_spec("torch") is not None
    tried: dict[str, Callable[[], str]] = {"without a model": tests_without_a_model}
    if trains:
        tried |= {"plans": plans, "session": session}
    begun = time.perf_counter()
    shown = {what: run() for what, run in tried.items()}
    return {
        "name": name,
        "tried": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in PACKAGES},
        "shown": shown,
        "seconds": round(time.perf_counter() - begun),
    }


def table(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> str:
    """Lay the rows out as the documentation's page: those that are wanted, then what else was tried once."""
    known = {row["name"]: row for row in rows}  # the last of a name counts
    absent = {name: {"name": name, "not_tried": _absent(name)} for name in wanted if name not in known}
    told = [(absent | known)[name] for name in dict.fromkeys([*wanted, *known])]
    head = ["environment", "Python", *PACKAGES, *SHOWN.values(), "tried"]
    lines = [
        "# Versions",
        "",
        "What `benchmarks/versions.py` tries in an environment: the tests that need no model, a memory plan of each",
        "method, and one session of the example that trains, asks every [arm](glossary.md#arm) and decides. `make",
        "versions` makes the environments of the matrix with pip, tries each on a CPU, adds its row to",
        "`benchmarks/results/versions.jsonl`, and writes this page from that file. The ranges in `pyproject.toml`",
        "follow from it. `-`: not installed there, or no part of that run. Only `works` says that something works.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(_line(row, len(head)) for row in told),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any], columns: int) -> str:
    if "not_tried" in row:
        cells = [row["name"], f"not tried: {row['not_tried']}", *[""] * (columns - 2)]
    else:
        shown = [row["shown"].get(what, LEFT_OUT) for what in SHOWN]
        versions = (row["versions"][name] for name in PACKAGES)
        cells = [row["name"], row["python"], *versions, *shown, row["tried"]]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _absent(name: str) -> str:
    """Say why an environment has no row."""
    python = f"python{name.rpartition('Python ')[2]}"
    if "Python " in name and shutil.which(python) is None:
        return f"there is no {python} on the machine that wrote this"
    return "it did not run on the machine that wrote this"


def main() -> int:
    """Write one row, or the table of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--name")
    parser.add_argument("--not-tried", help="write this reason as the row of NAME")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--wanted", nargs="+", default=[], help="the rows of the table")
    options = parser.parse_args()
    if options.name:
        reason = options.not_tried
        found = {"name": options.name, "not_tried": reason} if reason else row(options.name)
        print(json.dumps(found, indent=1))
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        return int(any(said != GOOD for said in found.get("shown", {}).values()))
    if options.table is None:
        parser.error("give --name to add a row, or --table to write the page")
    lines = options.rows.read_text(encoding="utf-8").splitlines() if options.rows.is_file() else []
    page = table([json.loads(line) for line in lines], options.wanted)
    options.table.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
