"""`curve` and `search` on a project whose trainer is a formula: trained once, then from the store, no torch, no look."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import load_experiment
from pytest_finetune.store import Store

from .conftest import Ran

LABELS = ("critical", "high", "medium", "low")
EXPERIMENT = """\
# What we ship.
task: priority
base_model: base
peft_method: lora
lora: {r: 8}
training:
  num_train_epochs: 2  # enough
  learning_rate: 1e-4
prompt: {template: "{input} ->"}
generation: {max_new_tokens: 8}
paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: dev.jsonl}
"""
RULES = """\
import pytest

@pytest.fixture
def wanted(experiment):
    return experiment.task

@pytest.mark.eval_rule(primary=True)
def test_label(response, example, wanted):
    assert response.text == example.expected

@pytest.mark.eval_rule
def test_short(response):
    assert len(response.text) < 99
"""
# The share of rows that is answered rightly hangs on the rows, the rank and the learning rate of the training.
CONFTEST = """\
import io, builtins, json, math, struct, sys
from pathlib import Path
import pytest
from pytest_finetune import Answer, TrainingResult
from pytest_finetune.training.request import Progress

HERE = Path(__file__).parent
real = io.open

def opened(file, *rest, **named):
    assert not str(file).endswith("eval.jsonl"), "a held-out row was read"
    return real(file, *rest, **named)

io.open = builtins.open = opened

def called(what):
    with (HERE / "calls.log").open("a") as log:
        log.write(what + "\\n")

def pytest_unconfigure(config):
    called("torch" if "torch" in sys.modules else "no torch")

def pytest_finetune_train(request):
    training, rows = request.experiment.training, len(request.pairs)
    called(f"train {rows} {training.max_steps} {request.experiment.lora.r} {training.learning_rate:g}")
    off = abs(math.log(training.learning_rate / 4e-4))
    if training.learning_rate > 5e-3:
        from pytest_finetune.training.request import TrainingError
        raise TrainingError("the loss is nan at step 3")
    for step in range(1, 11):
        loss = 1 + off / 10 + 1 / step
        request.progress(Progress(step, 10, 1.0, 0.1, 0.1, None, step / 5, unseen_loss=loss))
    skill = 0.2 + 0.1 * math.log2(rows / 8) + 0.05 * math.log2(request.experiment.lora.r / 8) - off / 10
    header = {f"base_model.model.q.lora_{side}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]}
              for side, at in (("A", 0), ("B", 4))}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + struct.pack("<2f", 0.5, skill)
    (request.folder / "adapter_model.safetensors").write_bytes(data)
    (request.folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "skill": skill}))
    return TrainingResult(folder=request.folder, steps=20, seconds=0.1, final_loss=0.5, log=({"step": 1, "loss": 2.0},),
                          held_out_loss=({"step": 20, "epoch": 2.0, "loss": 1 + off / 10},))

class Formula:
    def answer(self, prompts, generation, adapter=None):
        called(f"answer {len(prompts)}")
        right = json.loads((adapter / "adapter_config.json").read_text())["skill"] * len(prompts)
        said = [json.dumps({"label": ("critical", "high", "medium", "low")[at % 4]}) for at in range(len(prompts))]
        return [Answer(p.id, p.line, p.prompt, said[at] if at < right else "prose", 4, 0.01, True)
                for at, p in enumerate(prompts)]
    def release(self):
        pass

class Quantised(Formula):
    def __init__(self, name):
        self.lost, size = {"q8_0": (0, 900), "q4_k_m": (2, 500), "q2_k": (40, 300)}[name]
        self.gguf = {"bytes": size * 1_000_000, "says": name}
    def answer(self, prompts, generation, adapter=None):
        found = super().answer(prompts, generation, adapter)
        return [a.__class__(a.id, a.line, a.prompt, "prose" if at < self.lost else a.response, 4, 0.02, True)
                for at, a in enumerate(found)]

def pytest_finetune_runtime(name, experiment, base, device):
    return Formula() if name == "transformers" else Quantised(name)
"""


def rows(count: int, word: str, key: str) -> str:
    said = (
        {
            "id": f"{word}{at}",
            "instruction": "label it",
            "input": f"{word} {at} on "
            + " ".join(f"{word}{(at * 7919 + k * 104729) % 99991}" for k in range(6)),
            key: json.dumps({"label": LABELS[at % 4]}),
        }
        for at in range(count)
    )
    return "".join(json.dumps(row) + "\n" for row in said)


@dataclass(frozen=True)
class Tried:
    """The project, and what its trainer was asked since the last question."""

    root: Path
    run: Callable[..., Ran]

    def calls(self) -> list[str]:
        log = self.root / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def tree(self, *words: str) -> Any:
        ran = self.run(*words, "--json")
        assert ran.code == 0, ran.err
        return ran.tree


@pytest.fixture
def project(tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Tried:
    monkeypatch.chdir(tmp_path)
    files = {
        "finetune.yaml": EXPERIMENT,
        "train.jsonl": rows(64, "training", "output"),
        "dev.jsonl": rows(80, "development", "output"),
        "eval.jsonl": rows(20, "case", "expected"),
        "test_rules.py": RULES,
        "conftest.py": CONFTEST,
        "pytest.ini": "[pytest]\n",
        "base/config.json": '{"model_type": "llama"}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "base/model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes([0, 0, 128, 63])
    )
    return Tried(tmp_path, run)


def test_a_curve_is_trained_once_and_says_what_twice_the_rows_would_bring(project: Tried) -> None:
    first = project.tree("curve")
    trained = [call for call in project.calls() if call.startswith("train")]
    assert trained == [
        f"train {rows} {steps} 8 0.0001" for rows, steps in ((64, None), (32, 20), (16, 20), (8, 20))
    ]
    assert [point["rows"] for point in first["points"]] == [8, 16, 32, 64]
    rates = [point["rate"] for point in first["points"]]
    assert rates == sorted(rates)
    assert first["sentence"].startswith("twice as many rows of this kind would bring +")
    assert first["change"].startswith("write more rows like these: about 64 more")
    assert first["forecast"]["low"] <= 0.1 <= first["forecast"]["high"]
    assert list(Store(project.root / ".finetune").looks.judged()) == []

    page = project.run("curve", "--html")
    assert project.calls() == ["no torch"]  # nothing trained, nothing asked
    assert page.out.startswith("<!doctype html>")
    assert "Twice as many rows of this kind would bring" in page.out
    assert [f">{rows}</text>" in page.out for rows in (8, 16, 32, 64, 128)] == [True] * 5  # under the points
    assert "64 rows</th>" in page.out
    assert "20 steps, loss" in page.out
    assert "http" not in page.out.replace("http://www.w3.org", "")


def test_a_search_writes_an_experiment_and_trains_nothing_twice(project: Tried) -> None:
    words = (
        "search",
        "--over",
        "training.learning_rate=5e-5..1e-2",
        "--over",
        "lora.r=8,16",
        "--budget",
        "6",
    )
    tree = project.tree(*words)
    assert project.calls().count("no torch") == 1
    assert tree["trials"][0]["values"] == {"training.learning_rate": 1e-4, "lora.r": 8}  # as it is written
    rates = [trial["rate"] for trial in tree["trials"] if trial["rate"] is not None]
    assert (len(tree["trials"]), tree["best"]["rate"]) == (6, max(rates))

    again = project.run(*words)
    assert project.calls() == ["no torch"]
    said, won, then, *_ = again.out.splitlines()
    assert said == tree["sentence"]
    assert said.startswith("best of 6 trials: training.learning_rate ")
    assert won == tree["won_by"]
    assert won.startswith(f"trial {tree['best']['trial']} won by its ")
    assert then == "next: judge it once, by pytest --finetune -o finetune_experiments=finetune.search.yaml"
    failed = [one for one in tree["trials"] if one["state"] == "failed"]
    assert [
        f"  trial {tree['trials'].index(one) + 1} failed: {one['why']}" in again.out for one in failed
    ] == [True] * len(failed)
    page = project.run(*words, "--html").out
    assert project.calls() == ["no torch"]
    assert page.startswith("<!doctype html>")
    assert page.count("<tbody>") == 6
    assert "flattered by having been chosen" in page
    assert 'steps in <span class="ft-nobreak">' in page  # a duration is not broken before its unit
    written = (project.root / "finetune.search.yaml").read_text()
    assert written.startswith(
        "# Written by pytest-finetune search --over training.learning_rate=5e-05..0.01:log --over"
    )
    assert "# No held-out row was read for it: judge it once, by pytest --finetune." in written
    assert "# What we ship." in written
    assert "num_train_epochs: 2  # enough" in written
    chosen = load_experiment(project.root, "finetune.search.yaml")
    best = tree["best"]["values"]
    assert (chosen.training.learning_rate, chosen.lora.r) == (best["training.learning_rate"], best["lora.r"])
    assert list(Store(project.root / ".finetune").looks.judged()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["curve", "--set", "paths.dev_file=null"], "finetune.yaml has no development rows to choose on"),
        (
            ["curve", "--set", "paths.dev_file=eval.jsonl"],
            "which judges: what is chosen on held-out rows is not proven",
        ),
        (
            ["search", "--over", "paths.eval_file=a.jsonl,b.jsonl"],
            "says on which rows or how an adapter is judged",
        ),
        (["search"], "say what is to be tried, as in --over training.learning_rate=1e-4..1e-3"),
        (["search", "--over", "lora.rank=2,4"], "--set lora.rank=2: unknown key"),
        (["search", "--over", "lora.r=2"], "one value is no choice"),
        (["search", "--over", "lora.r=8..2"], "a range goes from a number to a larger one"),
        (
            ["search", "--over", "lora.r=2,4", "--write", "train.jsonl"],
            "is there already, and no search wrote it",
        ),
        (["curve", "--over", "lora.r=2..8"], "a curve needs its values, the cheapest first"),
        (
            ["curve", "--over", "lora.r=2,4", "--over", "training.seed=1,2"],
            "a curve shows one setting at a time",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(project: Tried, words: list[str], said: str) -> None:
    ran = project.run(*words)
    assert (ran.code, ran.out, project.calls()) == (2, "", [])
    assert said in ran.err


def test_a_search_without_optuna_names_the_extra(project: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_finetune.errors.find_spec", lambda name: None)
    ran = project.run("search", "--over", "lora.r=2,4")
    assert ran.code == 2
    assert "a search needs optuna, which is not installed: pip install 'pytest-finetune[search]'" in ran.err


def test_a_primary_rule_that_reads_held_out_rows_is_refused(project: Tried) -> None:
    rules = project.root / "test_rules.py"
    rules.write_text(rules.read_text().replace("(experiment)", "(eval_rows)"))
    ran = project.run("curve")
    assert (ran.code, [call for call in project.calls() if call.startswith("train")]) == (2, [])
    assert (
        "the primary rule could not be set up: the primary rule asks for eval_rows, and where something"
        in ran.err
    )


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of llama.cpp that start and do nothing: the project's own runtime answers for the files."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    for name in ("llama-server", "llama-quantize", "convert_hf_to_gguf.py"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FINETUNE_LLAMA_CPP", str(folder))


@pytest.mark.usefixtures("llama_cpp")
def test_files_are_laid_out_by_what_they_lose_and_nothing_is_trained_or_asked_twice(project: Tried) -> None:
    quants = "--quants=q8_0,Q4_K_M,q2_k"
    found = project.tree("shipped", quants)
    calls = project.calls()
    assert [call for call in calls if call.startswith("train")] == ["train 64 None 8 0.0001"]
    assert calls.count("answer 80") == 4
    assert [one["name"] for one in found["files"]] == ["transformers", "q8_0", "q4_k_m", "q2_k"]
    assert [one["bytes"] for one in found["files"]] == [None, 900_000_000, 500_000_000, 300_000_000]
    assert [one["gain"] for one in found["files"][:3]] == [None, 0, -2 / 80]
    assert found["files"][3]["gain_interval"][1] < 0
    assert found["sentence"].startswith(
        "q4_k_m is the smallest file that is not demonstrably worse than transformers"
    )
    compared = [(one["broken"], one["mended"], one["texts_alike"]) for one in found["files"]]
    assert compared == [(None, None, 80), (0, 0, 80), (2, 0, 78), (29, 0, 51)]
    assert [one["demonstrably_worse"] for one in found["files"]] == [None, False, False, True]
    assert found["sentence"].endswith("points is not excluded)")
    assert found["change"].startswith("write runtimes: [{name: shipped, gguf: q4_k_m}, transformers]")
    shown = project.run("shipped", quants)
    assert not [call for call in project.calls() if call != "no torch"]
    (line,) = [line for line in shown.out.splitlines() if "q4_k_m " in line and "0.02" in line]
    assert line.split()[1:4] == ["477", "MiB", f"{found['files'][2]['passed']:g}"]
    assert max(len(line) for line in shown.out.splitlines() if line.startswith("  ")) <= 80
    assert "proves nothing" in shown.out.splitlines()[-1]
    page = project.run("shipped", quants, "--html").out
    assert "<strong>q4_k_m is the smallest file" in page
    assert "breaks 2 rows, mends 0" in page
    assert project.calls() == ["no torch"]
    assert list(Store(project.root / ".finetune").looks.judged()) == []


@pytest.mark.parametrize("named", ["q4_km", "q4", "Q4_K"])
def test_a_quantisation_that_is_not_known_is_told_with_the_one_that_was_meant(
    project: Tried, named: str
) -> None:
    wrong = project.run("shipped", f"--quants={named}")
    assert (wrong.code, project.calls()) == (2, [])
    assert "without a matrix of importance; did you mean q4_k_m?" in wrong.err


def test_files_that_cannot_be_made_are_told_before_anything_is_trained(
    project: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_LLAMA_CPP", str(project.root / "nowhere"))
    ran = project.run("shipped", "--quants=q8_0")
    assert (ran.code, [call for call in project.calls() if call.startswith("train")]) == (2, [])
    assert "a GGUF runtime needs llama.cpp: FINETUNE_LLAMA_CPP names " in ran.err
