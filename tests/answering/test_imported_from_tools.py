"""Real files of other tools: lm-evaluation-harness and inspect_ai answer for the example's base model, and are judged.

Skipped where the tools are not installed. `PYTEST_FINETUNE_TOOLS` may name the Python of another environment that has
them, so that they need not share ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_finetune.answering.imported import imported_answers
from pytest_finetune.data.rows import Rows, read_rows

EXAMPLE = Path(__file__).parents[2] / "example_project"
MODEL = EXAMPLE / "models" / "ticket-lm"
PYTHON = os.environ.get("PYTEST_FINETUNE_TOOLS", sys.executable)
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

LM_EVAL_TASK = r"""
task: tickets
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Instruction: {{instruction}}\nInput: {{input}}\nAnswer:"
doc_to_target: "{{expected}}"
generation_kwargs: {until: ["\n"], max_gen_toks: 24, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""

INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def tickets():
    rows = json_dataset("rows.jsonl", FieldSpec(input="input", target="expected"))
    return Task(dataset=rows, solver=generate(), scorer=includes())
"""


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Six of the example's held-out rows, in a folder for the tools."""
    lines = (EXAMPLE / "eval" / "check.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:6]), encoding="utf-8")
    return read_rows(tmp_path, "rows.jsonl", "eval")


def run_tool(folder: Path, module: str, *arguments: str) -> None:
    """Run a tool's command line in the folder; skip where its Python lacks it."""
    there = [
        PYTHON,
        "-c",
        f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)",
    ]
    if subprocess.run(there, check=False).returncode:
        pytest.skip(f"{module} is not installed in {PYTHON}")
    ran = subprocess.run(
        [PYTHON, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


def test_samples_of_lm_evaluation_harness_are_answers_of_an_arm(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tickets.yaml").write_text(LM_EVAL_TASK, encoding="utf-8")
    model = ("--model", "hf", "--model_args", f"pretrained={MODEL},dtype=float32", "--device", "cpu")
    task = ("--tasks", "tickets", "--include_path", "tasks", "--output_path", "out", "--log_samples")
    run_tool(tmp_path, "lm_eval", "run", *model, *task)
    (file,) = (tmp_path / "out").rglob("samples_tickets_*.jsonl")
    found = imported_answers(file, file.name, "lm_eval", rows).answers
    assert list(found) == [row.id for row in rows]
    for row, answer in zip(rows, found.values(), strict=True):
        assert row.input in answer.prompt
        assert answer.response.startswith(" This looks ")


@pytest.mark.parametrize("form", ["json", "eval"])
def test_an_inspect_log_is_answers_of_an_arm(tmp_path: Path, rows: Rows, form: str) -> None:
    (tmp_path / "inspect_task.py").write_text(INSPECT_TASK, encoding="utf-8")
    model = ("--model", "hf/local", "-M", f"model_path={MODEL}", "-M", "device=cpu", "--max-tokens", "24")
    logs = ("--log-dir", "logs", "--log-format", form, "--display", "plain")
    run_tool(tmp_path, "inspect_ai", "eval", "inspect_task.py", *model, *logs)
    (file,) = (tmp_path / "logs").glob(f"*.{form}")
    found = imported_answers(file, file.name, "inspect", rows).answers
    assert [answer.prompt for answer in found.values()] == [row.input for row in rows]
    if form == "json":
        said = [
            sample["output"]["choices"][0]["message"]["content"]
            for sample in json.loads(file.read_text())["samples"]
        ]
        assert [answer.response for answer in found.values()] == said
