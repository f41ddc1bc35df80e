"""The fit stage through whole sessions: what is compared, what is skipped, whose step is planned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.memory.plan import planner
from pytest_finetune.memory.plan.figures import Figures, Held
from tests.tracing import trace_here

if TYPE_CHECKING:
    from .conftest import Project

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}
FIT = """\
def test_fits(memory_plan, gpu_budget):
    assert memory_plan <= gpu_budget
"""
STEP = """\
from pytest_finetune.memory.tracer.steps import Loss, PlainStep

class WideStep(PlainStep):
    def prepare(self, model):
        model.config.prepared = True
    def loss(self, model, batch):
        assert model.config.prepared
        output = model(input_ids=batch["input_ids"], labels=batch["labels"])
        return Loss(output.loss + output.logits.float().exp().mean(), output)
"""
NAMES_ITS_STEP = """
def pytest_finetune_memory_step(experiment):
    return str(Path(__file__).parent / "wide.py") + ":WideStep"
"""


@pytest.fixture
def planned(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The small project with a configuration that can be planned, on a machine without a card."""

    from pytest_finetune.memory.hardware import detect

    monkeypatch.setattr(detect, "accelerator", lambda: "cpu")
    project.write({"base/config.json": json.dumps(CONFIG), "test_fit.py": FIT})
    return project


@pytest.fixture
def untraced(planned: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same, and a tracing process that answers at once: 64 MiB and what the context takes."""
    held = {size: Held(64 << 20, 66 << 20, 64 << 20) for size in planner.WORKSPACES}
    answer = Figures(
        held=held,
        parts={"activations": 64 << 20},
        phase="backward",
        layer=1,
        phases={},
        parameters=100,
        trainable=2_000_000,
        resident=1,
        traced_layers=2,
        layers=2,
    )
    monkeypatch.setattr(
        planner, "trace_elsewhere", lambda ladders, *_: [[answer for _ in ladder] for ladder in ladders]
    )
    return planned


def parts(project: Project) -> dict[str, int]:
    found: dict[str, int] = project.experiment()["memory"]["breakdown"]
    return found


def test_the_step_of_the_registered_trainer_is_planned(
    planned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = planner.trace_elsewhere
    monkeypatch.setattr(planner, "trace_elsewhere", trace_here)
    ran = planned.run("test_fit.py", "--finetune", "--finetune-budget=8GiB")
    ran.assert_outcomes(passed=1)
    notes = planned.experiment()["memory"]["notes"]
    assert notes[-1] == (
        "planned for TRL's step: the trainer of conftest.py does not name its own "
        "(hook pytest_finetune_memory_step)"
    )
    trl = parts(planned)

    conftest = (planned.path / "conftest.py").read_text()
    planned.write({"conftest.py": conftest + NAMES_ITS_STEP, "wide.py": STEP})
    monkeypatch.setattr(planner, "trace_elsewhere", elsewhere)
    planned.run("test_fit.py", "--finetune", "--finetune-budget=8GiB").assert_outcomes(passed=1)
    assert not [note for note in planned.experiment()["memory"]["notes"] if "TRL" in note]
    wide = parts(planned)
    assert wide["logits and loss"] != trl["logits and loss"]
    assert wide["logits and loss"] > 4 * 512 * planned.experiment()["memory"]["tokens"]

    monkeypatch.setattr(planner, "trace_elsewhere", trace_here)
    planned.write({"wide.py": "class WideStep:\n    def prepare(self, model): pass\n"})
    ran = planned.run("test_fit.py", "--finetune", "--finetune-budget=8GiB")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["*wide.py:WideStep' is no step: it lacks batch, loss, session*"])


def test_without_a_card_the_plan_is_told_and_the_comparison_skipped(untraced: Project) -> None:
    ran = untraced.run("test_fit.py", "-rs")
    ran.assert_outcomes(skipped=1)
    ran.stdout.fnmatch_lines(
        [
            "*predicted peak * MiB (batch 1, * tokens); not compared: this machine has no accelerator: "
            "name the card with --finetune-budget=rtx-4090 or a size (8GiB)*"
        ]
    )


def test_the_headroom_is_an_option_and_an_ini_line(untraced: Project) -> None:
    untraced.run(
        "test_fit.py", "--finetune", "--finetune-budget=8GiB", "--finetune-headroom=25%"
    ).assert_outcomes(passed=1)
    assert untraced.experiment()["memory"]["budget_bytes"] == 6 * 2**30
    untraced.write({"pytest.ini": "[pytest]\nfinetune_budget = 8GiB\nfinetune_headroom = 50%\n"})
    untraced.run("test_fit.py", "--finetune").assert_outcomes(passed=1)
    memory = untraced.experiment()["memory"]
    assert (memory["budget_bytes"], memory["headroom"], memory["crowded"]) == (4 * 2**30, 0.5, None)
    ran = untraced.run("test_fit.py", "--finetune-budget=600MiB", "--finetune-headroom=0.1")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(
        ["*does not fit: needs * the budget is 540 MiB (a card with 600MiB, 10% headroom kept)"]
    )


def test_the_disk_is_a_budget_too_with_or_without_a_card(untraced: Project) -> None:
    untraced.write(
        {
            "test_fit.py": "def test_disk(memory_plan, disk_budget):\n    assert memory_plan.disk <= disk_budget\n"
            "def test_small(memory_plan):\n    assert memory_plan.disk <= 1024\n"
            "def test_named(memory_plan, gpu_budget):\n    assert memory_plan.disk <= gpu_budget\n"
        }
    )
    ran = untraced.run("test_fit.py", "--finetune-budget=rtx-4090", "-k", "not small")
    ran.assert_outcomes(passed=2, deselected=1)
    ran = untraced.run("test_fit.py", "-k", "not named")
    ran.assert_outcomes(passed=1, failed=1, deselected=1)
    ran.stdout.fnmatch_lines(
        [
            "*training does not fit on the disk: writes * MiB, 1.0 KiB are free",
            "* 3 checkpoints * | adapter * | bundle * (predicted)",
            "* training.save_total_limit 1 -> * MiB",
            "* to keep the store on another disk: --finetune-store=DIR",
        ]
    )
