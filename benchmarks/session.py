"""Score and decide 10,000 stored answers of each arm under ten rules in a whole pytest session.

    python -P benchmarks/session.py [--rows N] [--limit SECONDS]

A project is written into a temporary folder; its trainer and runtime are stand-ins, so that a first session fills the
store in seconds. The second session finds everything stored: it reads the answers, runs the rules, decides, and writes
record and page. Printed are processor seconds, by stage. Exits with 1 when rules and decision take longer than the
limit, or when the second session asked a model or imported torch.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LABELS = ("critical", "high", "medium", "low")

EXPERIMENT = """\
task: priority
base_model: base
peft_method: lora
lora: {r: 4}
training: {num_train_epochs: 1}
prompt: {template: "{input} ->"}
generation: {max_new_tokens: 8}
paths: {train_file: train.jsonl, eval_file: eval.jsonl, contract_file: contract.yaml}
"""
CONTRACT = """\
task: priority
version: 1
output:
  format: json
  schema: {type: object, required: [label], properties: {label: {enum: [critical, high, medium, low]}}}
labels: {field: label}
"""
TESTS = {
    "test_data.py": """\
import pytest

@pytest.mark.data_contract
def test_contract(contract, train_rows, eval_rows):
    assert contract.findings(train_rows, eval_rows) == []
""",
    "test_rules.py": """\
from pytest_finetune import rules

LABELS = ["critical", "high", "medium", "low"]
test_strict_json = rules.strict_json(keys=["label"])
test_label = rules.label_agreement(primary=True, min_gain=0.05)
test_schema = rules.output_schema({"type": "object", "properties": {"label": {"enum": LABELS}}})
test_allowed = rules.allowed_label()
test_no_prose = rules.no_prose_around_json()
test_pattern = rules.matches_pattern(r"\\{.*\\}")
test_exact = rules.exact_match()
test_field = rules.field_equals("label")
test_length = rules.length(max_tokens=20)
test_stops = rules.stops_by_itself()
""",
    "test_decision.py": """\
import pytest

@pytest.mark.decision_rule
def test_keep(decision):
    assert decision.keep, decision
""",
}
CONFTEST = """\
import json, sys, time
from pathlib import Path
import pytest
from pytest_finetune.answering.answers import Answer
from pytest_finetune.training.request import TrainingResult

HERE = Path(__file__).parent
SPENT = {}

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    began = time.process_time()
    try:
        return (yield)
    finally:
        SPENT[item.path.stem] = SPENT.get(item.path.stem, 0) + time.process_time() - began

def pytest_unconfigure():
    SPENT["whole"] = time.process_time()
    SPENT["torch"] = "torch" in sys.modules
    (HERE / "spent.json").write_text(json.dumps(SPENT))

def pytest_finetune_train(request):
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (request.folder / name).write_bytes((HERE / "adapter" / name).read_bytes())
    return TrainingResult(folder=request.folder, steps=2, seconds=0.1, final_loss=0.5, log=(), peak_bytes=None,
                          trainable=2, parameters=100, tokens={})

class TableRuntime:
    def answer(self, prompts, generation, adapter=None):
        SPENT["asked"] = SPENT.get("asked", 0) + len(prompts)
        table = json.loads((HERE / "answers.json").read_text())["tuned" if adapter else "baseline"]
        return [Answer(p.id, p.line, p.prompt, table[p.line - 1], 4, 0.01, True) for p in prompts]
    def release(self):
        pass

def pytest_finetune_runtime(name, experiment, base, device):
    return TableRuntime()
"""


def write_project(root: Path, rows: int) -> None:
    """Write an experiment with as many held-out rows, its tests, and what each arm answers."""
    files = {**TESTS, "conftest.py": CONFTEST, "finetune.yaml": EXPERIMENT, "contract.yaml": CONTRACT}
    train = [{"instruction": "label it", "input": _words(i), "output": _label(i)} for i in range(40)]
    held_out = [
        {"id": f"e{i}", "instruction": "label it", "input": _words(i + 1000), "expected": _label(i)}
        for i in range(rows)
    ]
    answers = {
        "baseline": [_label(i + i % 3) if i % 2 else "prose" for i in range(rows)],
        "tuned": [_label(i + (i % 10 == 0)) for i in range(rows)],
    }
    files["train.jsonl"] = "".join(json.dumps(row) + "\n" for row in train)
    files["eval.jsonl"] = "".join(json.dumps(row) + "\n" for row in held_out)
    files["answers.json"] = json.dumps(answers)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    for folder, tensors in (("base", ["weight"]), ("adapter", ["q.lora_A.weight", "q.lora_B.weight"])):
        (root / folder).mkdir()
        name = "model.safetensors" if folder == "base" else "adapter_model.safetensors"
        (root / folder / name).write_bytes(_safetensors(tensors))
    (root / "base" / "config.json").write_text('{"model_type": "llama"}')
    (root / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')


def _words(seed: int) -> str:
    return f"case {seed} " + " ".join(f"w{(seed * 7919 + k * 104729) % 99991}" for k in range(6))


def _label(i: int) -> str:
    return json.dumps({"label": LABELS[i % 4]})


def _safetensors(names: list[str]) -> bytes:
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(names)}f", *[0.5] * len(names))


def session(root: Path) -> dict[str, Any]:
    """Run one session and return its processor seconds by file, and what it did."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pytest", "-q", "--finetune", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the session ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    spent: dict[str, Any] = json.loads((root / "spent.json").read_text())
    return spent


def main() -> int:
    """Print the processor seconds of the second session."""
    parser = argparse.ArgumentParser(description="Judge stored answers in a whole session.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--limit", type=float, default=5.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_project(root, chosen.rows)
        first, spent = session(root), session(root)
    judged = spent["test_rules"] + spent["test_decision"]
    rest = spent["whole"] - judged - spent["test_data"]
    asked = f"{first['asked']:,} answers stored before, {spent.get('asked', 0)} asked now"
    print(f"{chosen.rows:,} rows, 10 rules, 2 arms; {asked}")
    print(
        f"rules {spent['test_rules']:.2f} s, decision {spent['test_decision']:.2f} s, together {judged:.2f} s; "
        f"data contract {spent['test_data']:.2f} s, start, record and page {rest:.2f} s; "
        f"whole session {spent['whole']:.2f} s of processor time"
    )
    return 0 if judged <= chosen.limit and not spent["torch"] and "asked" not in spent else 1


if __name__ == "__main__":
    sys.exit(main())
