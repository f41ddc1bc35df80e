"""Judge and promote the adapter of a tiny family in a session of pytest, and verify its bundle with a run of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_finetune.cli import main
from pytest_finetune.errors import FinetuneError

if TYPE_CHECKING:
    from pytest_finetune.data.formatting import Pair

EXPERIMENT: Final = """\
base_model: base
peft_method: lora
lora: {r: 4, alpha: 8}
training: {max_steps: 2}
trained: {adapter: adapter}
prompt: {template: "{instruction}\\nInput: {input}\\nAnswer:"}
generation: {max_new_tokens: 8, batch_size: 4}
paths: {train_file: train.jsonl, eval_file: eval.jsonl, output_dir: bundle}
drift: false
"""

# What the adapter answers is what is expected: it wins, and nothing about its quality is claimed.
TESTS: Final = """\
import hashlib
import pytest

@pytest.mark.data_contract
def test_data(contract, train_rows, eval_rows):
    assert contract.findings(train_rows, eval_rows) == []

@pytest.mark.oom_fit
def test_fits(experiment):
    assert experiment.training.max_seq_length < 4096

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_as_the_adapter(response, example):
    said = example.id + response.text
    assert example.expected in (hashlib.sha256(said.encode("utf-8", "replace")).hexdigest(), response.text)

@pytest.mark.decision_rule
def test_keep(decision):
    assert decision.keep, decision
"""


def promote(root: Path, asked: Sequence[Pair], answers: Sequence[str]) -> None:
    """Promote `root`/adapter on `root`/base into `root`/bundle; FinetuneError with what the session said instead."""
    rows = []
    for number, (pair, answer) in enumerate(zip(asked, answers, strict=True)):
        head, _, rest = str(pair.prompt).partition("\nInput: ")
        name = f"e{number}"
        expected = hashlib.sha256((name + answer).encode("utf-8", "replace")).hexdigest()
        text = rest.removesuffix("\nAnswer:")
        rows.append({"id": name, "instruction": head, "input": text, "expected": expected})
    train = [{"instruction": "say", "input": f"word {n} of many", "output": f"w{n}"} for n in range(16)]
    files = {"finetune.yaml": EXPERIMENT, "test_family.py": TESTS, "pytest.ini": "[pytest]\n"}
    for name, lines in {"train.jsonl": train, "eval.jsonl": rows}.items():
        files[name] = "".join(json.dumps(line) + "\n" for line in lines)
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    words = ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:warnings"]
    words += ["--finetune", "--finetune-promote"]
    with _inside(root), contextlib.redirect_stdout(io.StringIO()) as said:
        pytest.main([*words, "--finetune-device=cpu", f"--rootdir={root}", str(root)])
    if "INTERNALERROR" in said.getvalue():
        raise AssertionError(said.getvalue())
    if not (root / "bundle" / "MANIFEST.json").is_file():
        raise FinetuneError(_refusal(said.getvalue()))


def verify(root: Path) -> None:
    """Verify `root`/bundle and give all of its answers again; FinetuneError with what was not as recorded."""
    with _inside(root), contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(["verify", "bundle", "--run=1000", "--base", "base"])
    if code != 0:
        raise FinetuneError(said.getvalue())


def _refusal(said: str) -> str:
    """Return what a session said from its first failure on."""
    lines = said.splitlines()
    at = next((n for n, line in enumerate(lines) if "FAILURES" in line or "INTERNALERROR" in line), 0)
    return "\n".join(lines[at:])


@contextlib.contextmanager
def _inside(root: Path) -> Iterator[None]:
    """Stand in a folder, and forget the modules that were loaded from it."""
    before = Path.cwd()
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{root}{os.sep}"):
                del sys.modules[name]
