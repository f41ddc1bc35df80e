"""The example's model in a real `transformers serve`, started by the session as its second runtime."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

EXAMPLE = Path(__file__).parents[2] / "example_project"
SERVE = Path(sys.executable).with_name("transformers")

EXPERIMENT = """\
task: served
base_model: models/ticket-lm
peft_method: lora
lora: {r: 4}
training: {num_train_epochs: 1}
prompt: {template: "Instruction: {instruction}\\nInput: {input}\\nAnswer:"}
generation: {max_new_tokens: 24, batch_size: 16}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
runtimes:
  - transformers
  - {name: served, openai: {serve: [SERVE, serve, "{model}", --host, "{host}", --port, "{port}", --device, cpu], retries: 0}}
"""

# The adapter is drawn and not trained: what is tested is that it answers alike in both places.
CONFTEST = """\
from pytest_finetune.training.request import TrainingResult

def pytest_finetune_train(request):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(request.base, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= 0.2
    model.save_pretrained(request.folder)
    return TrainingResult(folder=request.folder, steps=1, seconds=0.1, final_loss=1.0, log=({"step": 1, "loss": 1.0},), peak_bytes=None, trainable=1, parameters=1, tokens={})
"""

RULES = """\
import pytest

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_short(response):
    assert response.tokens < 20
"""


class Served:
    """A project of its own with the example's base model and some of its rows."""

    def __init__(self, root: Path, rows: int) -> None:
        self.root = root
        for folder, file, count, into in (("data", "train", 20, "train"), ("eval", "check", rows, "eval")):
            lines = (EXAMPLE / folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
            (root / f"{into}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.copytree(EXAMPLE / "models", root / "models")
        settings = root / "models" / "ticket-lm" / "generation_config.json"
        found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        settings.write_text(json.dumps({**found, "repetition_penalty": 1.3}), encoding="utf-8")
        (root / "finetune.yaml").write_text(EXPERIMENT.replace("SERVE", json.dumps(str(SERVE))))
        (root / "conftest.py").write_text(CONFTEST)
        (root / "test_rules.py").write_text(RULES)
        (root / "pytest.ini").write_text("[pytest]\n")

    @property
    def log(self) -> Path:
        return self.root / ".finetune" / "logs" / "finetune-served.log"

    def experiment(self) -> dict[str, Any]:
        record = json.loads((self.root / "finetune-record" / "record.json").read_text(encoding="utf-8"))
        (only,) = record["experiments"]
        found: dict[str, Any] = only
        return found


def kill_the_server_once_it_was_asked(log: Path, over: threading.Event) -> None:
    """Kill the server alone, neither this process nor the one that guards the server."""
    while not log.exists() or "POST /v1/completions" not in log.read_text(errors="replace"):
        if over.wait(0.02):
            return
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = child.cmdline()
            if str(SERVE) in line and not any(word.endswith("supervisor.py") for word in line):
                child.kill()


@pytest.fixture(autouse=True)
def _servable() -> None:
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers[serving] is not installed")
    if not SERVE.is_file():
        pytest.skip("the command `transformers` is not installed beside this Python")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.timeout(600)  # two sessions and two servers, on a machine that may be busy
def test_a_real_server_agrees_with_the_first_runtime_and_dies_without_a_half_record(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    project, over = Served(pytester.path, rows=24), threading.Event()
    killer = threading.Thread(target=kill_the_server_once_it_was_asked, args=(project.log, over))
    killer.start()
    try:
        session = pytester.runpytest_inprocess("--finetune")
    finally:
        over.set()
        killer.join()
    said = session.stdout.str()
    assert session.ret == 1
    assert "runtime 'served': " in said
    assert "of 24" in said
    assert "none of them is kept" in said
    assert "the server has ended with exit status" in said
    experiment = project.experiment()
    assert experiment["decision"]["undecided"]
    assert {"baseline", "tuned"} <= experiment["arms"].keys()
    assert "tuned@served" not in experiment["arms"]
    assert experiment["runtime_match"] == []

    said = pytester.runpytest_inprocess("--finetune").stdout.str()
    experiment = project.experiment()
    assert not experiment["decision"]["undecided"], said
    assert experiment["training"]["reused"]
    assert experiment["arms"]["tuned"]["reused"]
    (match,) = experiment["runtime_match"]
    assert (match["first"], match["second"], match["text"]["total"]) == ("transformers", "served", 24)
    # The penalty of the base's folder is not applied, because each request says so.
    told = {"base_sets": {"repetition_penalty": 1.3}, "refused": []}
    assert experiment["arms"]["tuned@served"]["decoding"] == told
    # Batched float32 against single rows in the base's own dtype: near ties flip, most answers do not.
    assert match["text"]["same"] >= 12, said
    assert "  runtimes  served like transformers: " in said
    assert experiment["arms"]["tuned@served"]["runtime"].startswith("served (transformers ")
    drift = experiment["drift"]
    assert (drift["outcome"], drift["prompts"], drift["kl_reason"]) == ("measured", 40, None)
    assert 0 < drift["mean_kl"] < drift["max_kl"]
