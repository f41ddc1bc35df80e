from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_finetune
from pytest_finetune.memory.hardware.detect import Budget
from tests.tracing import trace_here

if TYPE_CHECKING:
    from .conftest import World


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: a plan is traced once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine runs this test has no accelerator, and torch is loaded once for all plans."""
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", trace_here)
    cpu = Budget("a CPU", "cpu", 1 << 34, 1 << 34)
    monkeypatch.setattr("pytest_finetune.memory.hardware.detect.detect", lambda device, store: cpu)


def test_a_training_that_fits_is_yes_and_one_that_does_not_is_no_with_remedies_that_hold(
    world: World, stored: Path
) -> None:
    fits = world.run("plan", "--store", stored, "--budget", "8GiB")
    assert fits.code == 0
    assert fits.out.startswith("fits: predicted peak ")
    needed = world.run("plan", "--store", stored, "--budget", "8GiB", "--json").tree["needed_bytes"]
    card = f"{int((needed - 1) / 0.92)}B"  # a byte too small, once the headroom is kept

    ran = world.run("plan", "--store", stored, "--budget", card, "--json")
    assert ran.code == 1
    tree = ran.tree
    assert (tree["fits"], tree["task"], tree["experiment"]) == ("does not fit", "priority", "finetune.yaml")
    assert sum(tree["breakdown"].values()) == tree["predicted_peak_bytes"]
    remedy = next(found for found in tree["remedies"] if "training.gradient_checkpointing" in found["keys"])
    again = world.run("plan", "--budget", "8GiB", "--json", "--set", "training.gradient_checkpointing=true")
    assert again.tree["needed_bytes"] == remedy["needed_bytes"]

    table = world.run("plan", "--store", stored, "--budget", card)
    assert table.code == 1
    lines = table.out.splitlines()
    assert lines[0].startswith("does not fit: needs at least ")
    assert f"tightest constraint: {tree['tightest']}" in lines
    for found in tree["remedies"]:
        assert any(line.startswith(f"  {found['change']} ") for line in lines)
    assert lines[-1] == "to judge another card: --budget=8GiB (8% headroom kept, it fits there)"


def test_a_stored_plan_is_read_back_without_a_trace(
    world: World, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.run("plan", "--store", stored, "--budget", "rtx-4090", "--json")
    monkeypatch.setattr("pytest_finetune.memory.plan.planner.trace_elsewhere", _must_not_run)
    assert world.run("plan", "--store", stored, "--budget", "rtx-4090", "--json") == first


def test_a_stored_plan_imports_no_torch(world: World, stored: Path) -> None:
    words = ["plan", "--store", str(stored), "--budget", "8GiB"]
    assert world.run(*words).code == 0
    script = (
        "import sys; from pytest_finetune.cli import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    package = str(Path(pytest_finetune.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        cwd=world.root,
        env={**os.environ, "PYTHONPATH": package},
        timeout=240,
    )
    assert done.stderr.splitlines()[-1] == "0 []"


def _must_not_run(workloads: object) -> None:
    raise AssertionError("a stored plan was traced again")


def test_without_a_card_the_plan_is_printed_and_not_judged(world: World, stored: Path) -> None:
    ran = world.run("plan", "--store", stored)
    assert ran.code == 0
    assert "not judged: this machine has no accelerator: name the card with --budget=rtx-4090" in ran.out
    tree = world.run("plan", "--store", stored, "--json").tree
    assert (tree["fits"], tree["budget"], tree["remedies"]) == (None, None, [])
    assert tree["not_compared"]


def test_rows_whose_length_is_unknown_are_planned_at_the_limit(world: World, stored: Path) -> None:
    tree = world.run("plan", "--store", stored, "--json").tree
    assert tree["tokens"] == 128
    world.write("model/tokenizer.json", "version https://git-lfs.github.com/spec/v1\n")
    assert world.run("plan", "--store", stored, "--json").tree["tokens"] == 128


def test_a_model_without_a_configuration_is_a_mistake(world: World, stored: Path) -> None:
    (world.root / "model" / "config.json").unlink()
    ran = world.run("plan", "--store", stored)
    assert (ran.code, ran.out) == (2, "")
    assert "config.json" in ran.err


def test_headroom_and_step_are_options(world: World, stored: Path) -> None:
    tree = world.run("plan", "--store", stored, "--budget", "8GiB", "--headroom", "25%", "--json").tree
    assert (tree["budget"]["usable_bytes"], tree["budget"]["headroom"]) == (6 << 30, 0.25)
    plain = "pytest_finetune.memory.tracer.steps:PlainStep"
    other = world.run("plan", "--store", stored, "--budget", "8GiB", "--step", plain, "--json").tree
    assert other["breakdown"]["logits and loss"] != tree["breakdown"]["logits and loss"]
    ran = world.run("plan", "--store", stored, "--headroom", "8")
    assert ran.code == 2
    assert "'8' is not a share: write 8% or 0.08" in ran.err
    ran = world.run("plan", "--store", stored, "--step", "nowhere:Step")
    assert (ran.code, ran.out) == (2, "")
    assert "the training step 'nowhere:Step' cannot be loaded: ModuleNotFoundError" in ran.err


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_7b_model_on_a_card_of_12_gb_is_offered_qlora_with_checkpointing_first(
    world: World, stored: Path
) -> None:
    mistral = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": None,
    }
    (world.root / "seven").mkdir()
    (world.root / "seven/config.json").write_text(json.dumps(mistral), encoding="utf-8")
    shape = ("base_model=seven", "training.max_seq_length=1024", "training.per_device_train_batch_size=4")
    settings = [word for one in shape for word in ("--set", one)]
    ran = world.run("plan", "--store", stored, "--budget", "rtx-3060", "--json", *settings)
    assert ran.code == 1
    first = next(found for found in ran.tree["remedies"] if found["enough"])
    assert first["change"] == "gradient_checkpointing true and peft_method qlora"
    assert first["keys"]["peft_method"] == "qlora"
    assert "1.5 times the work" in first["note"]
