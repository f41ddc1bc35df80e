"""A small project whose trainer and runtime are plugins of its own: the whole session in under a second, no torch.

The model is a table: what each arm answers to which row. The trainer writes a real safetensors file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.cli import main

LABELS = ("critical", "high", "medium", "low")

EXPERIMENT = """\
task: priority
base_model: base
peft_method: lora
lora: {r: 4}
training: {num_train_epochs: 1}
prompt: {template: "{input} ->", few_shot: FEW_SHOT}
generation: {max_new_tokens: 8}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""

RULES = """\
import json
import pytest

@pytest.mark.eval_rule(min_rate=0.9)
def test_strict_json(response):
    json.loads(response.text)

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_label(response, example):
    assert response.json()["label"] == example.expected_json()["label"]
"""

DECISION = """\
import pytest

@pytest.mark.decision_rule
def test_keep(decision):
    assert decision.keep, decision
"""

DATA = """\
import pytest

@pytest.mark.data_contract
def test_contract(contract, train_rows, eval_rows):
    assert contract.findings(train_rows, eval_rows) == []
"""

# What a team would write to bring its own trainer and runtime.
CONFTEST = """\
import json, struct
from pathlib import Path
import pytest
from pytest_finetune import Answer, TrainingResult

TABLE = json.loads((Path(__file__).parent / "answers.json").read_text())
LOG = Path(__file__).parent / "calls.log"

def called(what):
    with LOG.open("a") as log:
        log.write(what + "\\n")

def pytest_finetune_train(request):
    called("train")
    error = TABLE.get("training_error")
    if error:
        raise RuntimeError(error)
    header = {f"base_model.model.q.lora_{side}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]}
              for side, at in (("A", 0), ("B", 4))}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + struct.pack("<2f", 0.5, TABLE.get("delta", 1.0))
    (request.folder / "adapter_model.safetensors").write_bytes(data)
    (request.folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    log = ({"step": 1, "epoch": 0.5, "loss": 2.0}, {"step": 2, "epoch": 1.0, "loss": 0.5})
    return TrainingResult(folder=request.folder, steps=2, seconds=0.1, final_loss=0.5, log=log, peak_bytes=None,
                          trainable=2, parameters=100, tokens={"p50": 5, "p95": 9, "max": 10, "truncated": 0, "supervised": 90})

class TableRuntime:
    def answer(self, prompts, generation, adapter=None):
        found = []
        for prompted in prompts:
            arm = "tuned" if adapter else "prompted" if prompted.prompt.count("->") > 1 else "baseline"
            found.append((arm, prompted))
        called("answer " + found[0][0])
        return [Answer(p.id, p.line, p.prompt, TABLE[arm][p.id], 4, 0.01, True) for arm, p in found]
    def release(self):
        called("release")

def pytest_finetune_runtime(name, experiment, base, device):
    return TableRuntime()
"""


def safetensors(values: Sequence[float], name: str = "weight") -> bytes:
    """Return the bytes of a safetensors file with one float32 tensor."""
    header = {name: {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, 4 * len(values)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{len(values)}f", *values)


def row_id(index: int) -> str:
    """Return the id of a held-out row."""
    return f"e{index:03d}"


def expected(index: int) -> str:
    """Return the right answer to a held-out row."""
    return json.dumps({"label": LABELS[index % 4]})


@dataclass(slots=True)
class Project:
    """A folder with an experiment, its rows, its tests, and a table in place of a model."""

    pytester: pytest.Pytester
    rows: int
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The project's root."""
        return self.pytester.path

    def write(self, files: Mapping[str, str]) -> None:
        """Write files by relative name."""
        for name, text in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")

    def says(self, arm: str, right: int, *, other: str = "prose") -> None:
        """Let an arm answer the first `right` rows rightly and the rest with `other`."""
        self.answers[arm] = {row_id(i): expected(i) if i < right else other for i in range(self.rows)}
        self.save()

    def save(self) -> None:
        """Write the table."""
        (self.path / "answers.json").write_text(json.dumps(self.answers), encoding="utf-8")

    def run(self, *args: str, subprocess: bool = False) -> pytest.RunResult:
        """Run pytest in the project."""
        if subprocess:
            with pytest.MonkeyPatch.context() as patch:
                # It imports all of Hypothesis at the end of a session, which takes longer than the session.
                patch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
                return self.pytester.runpytest_subprocess(*args)
        return self.pytester.runpytest_inprocess(*args)

    def record(self) -> dict[str, Any]:
        """Return the record of the last run, which lies beside that of the last whole one where it was none."""
        folder = self.path / "finetune-record"
        written = [
            file for file in (folder / "record.json", folder / "partial" / "record.json") if file.exists()
        ]
        last = max(written, key=lambda file: file.stat().st_mtime_ns, default=folder / "record.json")
        found: dict[str, Any] = json.loads(last.read_text(encoding="utf-8"))
        return found

    def experiment(self) -> dict[str, Any]:
        """Return the only experiment of the last record."""
        (only,) = self.record()["experiments"]
        found: dict[str, Any] = only
        return found

    def calls(self) -> list[str]:
        """Return what trainer and runtime were asked to do since the last question."""
        log = self.path / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


def make_project(pytester: pytest.Pytester, *, rows: int = 80, few_shot: int = 0) -> Project:
    """Build the project: a base that answers prose and a tuned arm that is right on nine rows of ten."""
    project = Project(pytester, rows)
    train = [
        {
            "instruction": "label it",
            "input": f"training ticket number {i} about {_words(i)}",
            "output": expected(i),
        }
        for i in range(40)
    ]
    held_out = [
        {
            "id": row_id(i),
            "instruction": "label it",
            "input": f"held-out case {i} on {_words(i + 1000)}",
            "expected": expected(i),
        }
        for i in range(rows)
    ]
    project.write(
        {
            "finetune.yaml": EXPERIMENT.replace("FEW_SHOT", str(few_shot)),
            "train.jsonl": "".join(json.dumps(row) + "\n" for row in train),
            "eval.jsonl": "".join(json.dumps(row) + "\n" for row in held_out),
            "conftest.py": CONFTEST,
            "test_data.py": DATA,
            "test_rules.py": RULES,
            "test_decision.py": DECISION,
            "base/config.json": '{"model_type": "llama"}',
        }
    )
    (project.path / "base" / "model.safetensors").write_bytes(safetensors([0.5, 1.0]))
    project.says("baseline", 0)
    project.says("prompted", rows // 4)
    project.says("tuned", rows * 9 // 10, other='{"label": "none"}')
    return project


def _words(seed: int) -> str:
    return " ".join(f"w{(seed * 7919 + k * 104729) % 99991}" for k in range(6))


@pytest.fixture(autouse=True)
def _outside_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no session of a test write into the summary of the job that runs it."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """A small project that would end in keep."""
    return make_project(pytester)


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`pytest-finetune verify`: its exit code, and all that it printed."""

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main(["verify", *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run
