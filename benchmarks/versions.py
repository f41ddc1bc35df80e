"""Does everything work with the libraries that are installed here? One row of the table in docs/versions.md.

python benchmarks/versions.py --name NAME --rows rows.jsonl        # in an environment of the matrix; `make versions`
python benchmarks/versions.py --rows rows.jsonl --table docs/versions.md

In an environment: the tests of the rooms that need no model, one plan of each method, and one session that trains a few
steps of the example, asks every arm and decides. Without torch only the first. A row is written whatever it shows.
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
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes", "pytest")
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
    return _said([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *MODEL_FREE], ROOT)


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
        file = project / "finetune.yaml"
        text = file.read_text(encoding="utf-8").replace("num_train_epochs: 4", "max_steps: 4")
        text = text.replace("warmup_steps: 10", "warmup_steps: 1").replace(
            "max_new_tokens: 48", "max_new_tokens: 8"
        )
        file.write_text(text, encoding="utf-8")
        said = _said([sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider"], project)
        record = project / "finetune-record/record.json"
        if not record.is_file():
            return said
        (one,) = json.loads(record.read_text(encoding="utf-8"))["experiments"]
    decided = (one["decision"] or {}).get("verdict")
    if one["training"] and one["memory"] and decided:
        return GOOD
    return f"no decision: {said}"


def _said(command: Sequence[str], folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return GOOD if done.returncode == 0 else (lines or ["it ended without a word"])[-1][:200]


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
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in PACKAGES},
        "shown": shown,
        "seconds": round(time.perf_counter() - begun),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay the rows out as the documentation's page."""
    head = [
        "environment",
        "Python",
        *PACKAGES,
        "without a model",
        "a plan of each method",
        "train, ask, decide",
    ]
    lines = [
        "# Versions",
        "",
        "What `benchmarks/versions.py` tries in an environment: the tests that need no model, a memory plan of each",
        "method, and one session of the example that trains, asks every [arm](glossary.md#arm) and decides. `make",
        "versions` makes the environments of the matrix with pip, tries each, and writes this page anew. The",
        "ranges in `pyproject.toml` follow from it. `-` was not tried in that environment.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for one in rows:
        shown = [one["shown"].get(what, LEFT_OUT) for what in ("without a model", "plans", "session")]
        cells = [one["name"], one["python"], *(one["versions"][name] for name in PACKAGES), *shown]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write one row, or the table of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--name")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.name:
        found = row(options.name)
        print(json.dumps(found, indent=1))
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        return int(any(said != GOOD for said in found["shown"].values()))
    if options.table is None:
        parser.error("give --name to add a row, or --table to write the page")
    text = options.rows.read_text(encoding="utf-8")
    options.table.write_text(table([json.loads(line) for line in text.splitlines()]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
