"""The pages about trainers and adapters of other tools are run: for what cannot run here stands a stand-in."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.cli import main
from pytest_finetune.suite.steps.trainer_results import checked
from pytest_finetune.training.request import TrainingError, TrainingRequest, TrainingResult

from .conftest import HUB_ID

PageFiles = Callable[[str], Path]
RequestOf = Callable[[Path], TrainingRequest]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script where torch and the other libraries are loaded already; other commands stay what they are."""
    processes = subprocess.run

    def run(command: list[Any], **settings: Any) -> Any:
        if not isinstance(command[1], Path):
            return processes(command, **settings)
        return subprocess.CompletedProcess(command, run_script(*command[1:]))

    monkeypatch.setattr(subprocess, "run", run)


def run_script(script: Path, *words: object) -> int:
    """Run a script as `python` would and return its exit code."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", [str(script), *map(str, words)])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def trained(project: Path, request: TrainingRequest) -> tuple[TrainingResult, str]:
    """Call the hook of the project's conftest.py; return what it gives, and what it says of itself for the key."""
    hook: Any = runpy.run_path(str(project / "conftest.py"))["pytest_finetune_train"]
    return checked(request, hook(request)), hook.version


def test_an_adapter_of_a_plain_trl_script_is_judged_and_promoted_without_training(
    page_files: PageFiles, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = page_files("how-to/adapter-from-elsewhere.md")
    script, experiment = project / "train.py", project / "finetune.yaml"
    text = script.read_text().replace(HUB_ID, "base").replace("num_train_epochs=3", "num_train_epochs=5")
    assert "learning_rate=2e-4" in text
    script.write_text(text.replace("learning_rate=2e-4", "learning_rate=1e-2, seed=1"))
    experiment.write_text(experiment.read_text().replace(HUB_ID, "base") + "drift: false\n")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", project / "cache")
    monkeypatch.chdir(project)
    assert run_script(script) == 0
    assert (project / "runs/priority/training_args.bin").is_file()

    result = pytester.runpytest("--finetune", "--finetune-promote", "--rootdir", str(project))
    assert result.ret == 0, result.outlines
    told = json.loads((project / "finetune-record/record.json").read_text())["experiments"][0]
    assert told["decision"]["verdict"] == "keep"
    assert told["training"]["notes"][0] == "nothing was trained here: the adapter was given as runs/priority"
    bundle = project / "artifacts/adapter"
    assert (bundle / "adapter_model.safetensors").read_bytes() == (
        project / "runs/priority/adapter_model.safetensors"
    ).read_bytes()
    assert main(["verify", str(bundle)]) == 0


def test_a_trl_script_is_the_trainer(page_files: PageFiles, request_of: RequestOf) -> None:
    project = page_files("how-to/trainer-trl.md")
    result, version = trained(project, request_of(project))
    assert (result.steps, len(result.log)) == (3, 3)
    assert version.startswith("train_with_trl.py ")
    assert ", trl " in version


def test_a_script_that_fails_is_named(page_files: PageFiles, request_of: RequestOf) -> None:
    project = page_files("how-to/trainer-trl.md")
    (project / "train_with_trl.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(TrainingError, match=r"train_with_trl\.py ended with code 3"):
        trained(project, request_of(project))


UNSLOTH = '''\
"""What the page asks of unsloth, by transformers and PEFT."""
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name, max_seq_length, load_in_4bit):
        assert load_in_4bit is False
        return AutoModelForCausalLM.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(
        model, r, lora_alpha, lora_dropout, target_modules, use_gradient_checkpointing, random_state
    ):
        assert use_gradient_checkpointing == "unsloth"
        settings = LoraConfig(
            r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=target_modules, task_type="CAUSAL_LM"
        )
        return get_peft_model(model, settings)
'''


def test_unsloth_is_the_trainer(
    page_files: PageFiles, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = page_files("how-to/trainer-unsloth.md")
    install(project / "site", "unsloth", "2026.11.1", monkeypatch)
    (project / "site" / "unsloth.py").write_text(UNSLOTH)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    result, version = trained(project, request_of(project))
    assert (result.steps, len(result.log)) == (3, 3)
    assert version.endswith("unsloth 2026.11.1")


AXOLOTL = """\
#!{python}
import json, shutil, sys, yaml
from pathlib import Path

asked = yaml.safe_load(Path(sys.argv[2]).read_text())
rows = asked["datasets"][0]
lines = Path(rows["path"]).read_text().splitlines()
Path("asked.json").write_text(json.dumps([sys.argv[1], asked, json.loads(lines[0]), len(lines)]))
out = Path(asked["output_dir"])
(out / "checkpoint-3").mkdir(parents=True)
history = [dict(step=step, epoch=step / 3, loss=2.0 / step) for step in (1, 2, 3)] + [dict(step=3, train_runtime=1)]
(out / "checkpoint-3" / "trainer_state.json").write_text(json.dumps(dict(global_step=3, log_history=history)))
for name in ("adapter_model.safetensors", "adapter_config.json", "training_args.bin"):
    (out / name).write_bytes(b"{{}}")
"""
# Of axolotl's configuration reference and its page on conversations.
DOCUMENTED = {
    "base_model", "adapter", "load_in_4bit", "datasets", "dataset_prepared_path", "val_set_size", "sequence_len",
    "micro_batch_size", "gradient_accumulation_steps", "learning_rate", "num_epochs", "max_steps", "optimizer",
    "lr_scheduler", "gradient_checkpointing", "bf16", "seed", "lora_r", "lora_alpha", "lora_dropout",
    "lora_target_linear", "lora_target_modules", "save_safetensors", "logging_steps", "output_dir",
}  # fmt: skip
OF_ROWS = {
    "path", "ds_type", "type", "chat_template", "field_messages", "roles_to_train", "message_field_training",
    "train_on_eos",
}  # fmt: skip


def test_axolotl_is_the_trainer(
    page_files: PageFiles, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = page_files("how-to/trainer-axolotl.md")
    install(project / "site", "axolotl", "0.13.0", monkeypatch)
    command = project / "site" / "axolotl"
    command.write_text(AXOLOTL.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project / 'site'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(project)
    result, version = trained(project, request_of(project))
    assert (result.steps, result.final_loss, version) == (3, 2 / 3, "axolotl 0.13.0")
    word, asked, row, count = json.loads((project / "asked.json").read_text())
    assert (word, count, asked["adapter"], asked["lora_r"]) == ("train", 64, "lora", 4)
    assert asked.keys() <= DOCUMENTED
    assert asked["datasets"][0].keys() <= OF_ROWS
    assert [(message["role"], message["train"]) for message in row["messages"]] == [
        ("user", False),
        ("assistant", True),
    ]
    assert not (project / "adapter" / "training_args.bin").exists()


def install(site: Path, name: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package of that name and version be found, here and in processes of its own."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
