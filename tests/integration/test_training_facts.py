"""What the record says of a training: its held-out losses, and that they never decide what is reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pytest_finetune.publish.trackers import _KINDS, TrackingError

from .conftest import expected

if TYPE_CHECKING:
    from .conftest import Project

LOSSES = """\
    kept = [{"step": 1, "epoch": 0.5, "loss": 1.5}, {"step": 2, "epoch": 1.0, "loss": 1.25}]
    seen = len(request.held_out)
    log = ({"step": 1, "epoch": 0.5, "loss": 2.0}, {"step": 2, "epoch": 1.0, "loss": 0.5})
    called(f"{seen} held out")
"""


def with_held_out_losses(project: Project) -> None:
    """Let the trainer report a held-out loss an epoch, as ours does."""
    text = (project.path / "conftest.py").read_text()
    old = next(line for line in text.splitlines(keepends=True) if line.startswith("    log = ("))
    text = text.replace(old, LOSSES, 1).replace("peak_bytes=None,", "held_out_loss=kept, peak_bytes=None,", 1)
    project.write({"conftest.py": text})


def test_the_held_out_losses_stand_beside_the_training_loss(project: Project) -> None:
    with_held_out_losses(project)
    assert project.run("--finetune").ret == 0
    assert "80 held out" in project.calls()
    training = project.experiment()["training"]
    assert [entry["loss"] for entry in training["held_out_loss"]] == [1.5, 1.25]
    assert training["notes"] == []
    assert project.record()["notes"] == []


CHOOSING = """\
    log = ({"step": 1, "epoch": 0.5, "loss": 2.0}, {"step": 2, "epoch": 1.0, "loss": 0.5})
    looks = [{"step": 1, "epoch": 0.5, "loss": 1.5}, {"step": 2, "epoch": 1.0, "loss": 1.75}]
    called(f"{len(request.pairs)} trained on, {len(request.dev)} to choose on")
"""


def test_the_adapter_is_chosen_on_rows_that_are_neither_trained_on_nor_judged_by(project: Project) -> None:
    text = (project.path / "conftest.py").read_text()
    old = next(line for line in text.splitlines(keepends=True) if line.startswith("    log = ("))
    chosen = text.replace(old, CHOOSING, 1)
    experiment = (project.path / "finetune.yaml").read_text()
    project.write(
        {
            "conftest.py": chosen.replace(
                "peak_bytes=None,", "dev_loss=looks, kept_step=1, peak_bytes=None,", 1
            ),
            "finetune.yaml": experiment.replace("num_train_epochs: 1", "num_train_epochs: 1, keep: best")
            + "split: {dev: 0.25}\n",
        }
    )
    questions = [f"q{at}" for at in range(96)]  # no near duplicates
    apart = [
        {"instruction": "Say it.", "input": asked, "output": expected(at)}
        for at, asked in enumerate(questions)
    ]
    project.write({"train.jsonl": "".join(json.dumps(row) + "\n" for row in apart)})
    assert project.run("--finetune").ret == 0
    data, training = project.experiment()["data"], project.experiment()["training"]
    assert data["train"]["rows"] + data["dev"]["rows"] == 96
    assert f"{data['train']['rows']} trained on, {data['dev']['rows']} to choose on" in project.calls()
    assert (training["kept_step"], [look["loss"] for look in training["dev_loss"]]) == (1, [1.5, 1.75])
    assert (
        "step 1, the best on the development rows"
        in (project.path / "finetune-record" / "report.html").read_text()
    )
    project.write({"conftest.py": chosen})  # another trainer, which chooses nothing
    project.run("--finetune")
    assert project.experiment()["training"]["notes"] == [
        "training.keep is best, and this trainer chose nothing on the development rows: it kept its last adapter"
    ]


FULL_TRAINER = """\
    header = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + struct.pack("<2f", 0.5, 1.0 + TABLE.get("delta", 1.0))
    (request.folder / "model.safetensors").write_bytes(data)
    (request.folder / "config.json").write_text('{"model_type": "llama"}')
"""


def with_full_fine_tuning(project: Project) -> None:
    """Let the experiment train every weight, and the trainer keep a whole model."""
    text = (project.path / "conftest.py").read_text()
    start, end = text.index("    header = {"), text.index("    log = (")
    experiment = (project.path / "finetune.yaml").read_text()
    project.write(
        {
            "conftest.py": text[:start] + FULL_TRAINER + text[end:],
            "finetune.yaml": experiment.replace("peft_method: lora\nlora: {r: 4}\n", "peft_method: full\n"),
        }
    )


def test_a_model_trained_in_full_goes_through_the_whole_session(project: Project) -> None:
    with_full_fine_tuning(project)
    result = project.run("--finetune")
    assert result.ret == 0
    experiment = project.experiment()
    assert experiment["config"]["lora"] is None
    assert experiment["key_fields"]["lora"] is None
    assert experiment["training"]["delta_nonzero"] is True
    assert experiment["decision"]["verdict"] == "keep"
    result.stdout.fnmatch_lines(["priority: base with full"])
    assert project.run("--finetune").ret == 0
    assert project.experiment()["training"]["reused"] is True


def test_a_full_training_that_changed_nothing_is_told(project: Project) -> None:
    with_full_fine_tuning(project)
    project.answers["delta"] = 0.0
    project.save()
    project.run("--finetune")
    assert project.experiment()["training"]["delta_nonzero"] is False


class Follower:
    """A tracker that writes down what it is told, and breaks where it should."""

    name = "stand-in"
    told: ClassVar[list[object]] = []

    def __init__(self, where: str, folder: Path) -> None:
        self._breaks = where

    def check(self) -> None:
        self.told.append("check")

    def begin(self, experiment: str, key: str) -> str:
        if self._breaks:
            raise TrackingError("gone")
        self.told.append(("begin", experiment))
        return "r1"

    def step(self, run: str, progress: object) -> None:
        raise AssertionError("this trainer tells no step")

    def trained(self, run: str) -> None:
        self.told.append(("trained", run))

    def judged(self, run: str | None, record: object, experiment: Any) -> str:
        self.told.append((run, experiment["decision"]["verdict"]))
        return "there"


def test_a_tracker_hears_of_trainings_and_every_verdict_and_only_with_the_flag(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_KINDS, "stand-in", Follower)
    monkeypatch.setattr(Follower, "told", [])
    project.says("tuned", 0)
    result = project.run("--finetune", "--finetune-track=stand-in")
    result.stdout.fnmatch_lines(["stand-in: finetune at there"])
    assert Follower.told == ["check", ("begin", "finetune"), ("trained", "r1"), ("r1", "discard")]
    assert "tracked" not in project.experiment()
    Follower.told.clear()
    project.run("--finetune")
    assert Follower.told == []
    result = project.run("--finetune", "--finetune-track=stand-in:broken", "--finetune-retrain")
    result.stdout.fnmatch_lines(["warning: stand-in does not follow this training any more: gone"])
    assert Follower.told == ["check", (None, "discard")]
    assert project.run("--finetune-track=elsewhere", "--finetune").ret == pytest.ExitCode.USAGE_ERROR
