"""Every method by `--finetune-set`, whole sessions on a tiny model: what is kept answers the same under plain libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import METHODS, check_config, generate, keep_from_repacking, load
from tests.training.conftest import build_base, question

EXPERIMENT = """\
task: sums
base_model: base
peft_method: lora
lora: {r: 16, alpha: 32, target_modules: all-linear}
training: {max_seq_length: 128, per_device_train_batch_size: 4, gradient_accumulation_steps: 1, max_steps: 16,
           learning_rate: 0.01, lr_scheduler_type: constant}
prompt: {template: "Instruction: {instruction}\\nInput: {input}\\nAnswer:", few_shot: 0}
generation: {max_new_tokens: 8, batch_size: 1}
drift: false
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""
RULE = """\
import pytest

@pytest.mark.eval_rule(primary=True)
def test_sum(response, example):
    assert response.text.strip() == example.expected
"""
SLOWER = {"full": ("training.learning_rate=0.003",)}


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """Sums of two digits, and a random Llama of 0.1 million parameters to learn them."""
    root = pytester.path
    build_base(root / "base")
    (root / "finetune.yaml").write_text(EXPERIMENT)
    rows = [(f"{n // 8} and {n % 8}", json.dumps({"sum": n // 8 + n % 8})) for n in range(24)]
    for name, key, part in (("train", "output", rows[:16]), ("eval", "expected", rows[16:])):
        lines = [json.dumps({"instruction": "add", "input": asked, key: said}) + "\n" for asked, said in part]
        (root / f"{name}.jsonl").write_text("".join(lines))
    (root / "test_rules.py").write_text(RULE)
    return root


def answers(project: Path, arm: str) -> list[dict[str, Any]]:
    file = project / "finetune-record" / "outputs" / f"{arm}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
@pytest.mark.parametrize("method", ["dora", "qlora", "int8", "full"])
def test_a_method_is_chosen_on_the_command_line_and_plain_libraries_give_its_answers(
    pytester: pytest.Pytester, project: Path, method: str
) -> None:
    settings = [*METHODS[method], *SLOWER.get(method, ())]
    words = [word for setting in settings for word in ("--finetune-set", setting)]
    done = pytester.runpytest_inprocess("--finetune", "--finetune-device=cpu", *words)
    assert done.ret in (0, 1)  # so small a model may fail its rule
    record = json.loads((project / "finetune-record" / "record.json").read_text())
    (experiment,) = record["experiments"]
    assert experiment["config"]["peft_method"] == (method if method != "int8" else "lora")
    assert experiment["config"]["quantization"] == {"qlora": "nf4", "int8": "int8"}.get(method, "none")
    training = experiment["training"]
    assert training["log"][-1]["loss"] < training["log"][0]["loss"]
    folder = project / training["adapter_path"]
    check_config(folder, method)

    tuned = answers(project, "tuned")
    assert [one["prompt"] for one in tuned] == [question(n // 8, n % 8) for n in range(16, 24)]
    assert [one["response"] for one in tuned] != [one["response"] for one in answers(project, "baseline")]
    model, tokenizer = load(folder, project / "base", method)
    keep_from_repacking(model)
    plain = [generate(model, tokenizer, one["prompt"], new_tokens=8) for one in tuned]
    assert plain == [one["response"] for one in tuned]
