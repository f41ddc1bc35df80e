"""An adapter that another tool trained is judged and promoted as it was left, with no training at all."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.cli import main

from .bundles import FIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .conftest import Project

PICKLE = b"\x80\x04\x95 never opened"


def leave_behind(folder: Path, *, value: float = 1.0, config: Mapping[str, object] | None = None) -> None:
    """Write what `trainer.save_model()` leaves: the adapter, a pickle of its arguments, and more."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {f"base_model.model.q.lora_{side}.weight": at for side, at in (("A", 0), ("B", 4))}
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [at, at + 4]} for name, at in sides.items()
    }
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + struct.pack("<2f", 0.5, value)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    described = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": "/elsewhere/base", **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    (folder / "training_args.bin").write_bytes(PICKLE)
    (folder / "README.md").write_text("Trained elsewhere.")
    (folder / "checkpoint-4").mkdir(exist_ok=True)


@pytest.fixture
def given(project: Project) -> Project:
    text = (project.path / "finetune.yaml").read_text()
    text = text.replace("lora: {r: 4}\n", "trained: {adapter: theirs}\n")
    project.write({"finetune.yaml": text, "test_fit.py": FIT})
    leave_behind(project.path / "theirs")
    return project


def test_it_is_judged_promoted_and_verified_and_nothing_is_trained(given: Project) -> None:
    result = given.run("--finetune", "--finetune-promote=promoted")
    assert result.ret == 0
    assert "train" not in given.calls()
    experiment = given.experiment()
    assert experiment["decision"]["verdict"] == "keep"
    assert experiment["training"]["notes"] == [
        "nothing was trained here: the adapter was given as theirs",
        "left behind, unopened: training_args.bin (pickles, which can run code when they are loaded)",
    ]
    promoted = {file.name for file in (given.path / "promoted").iterdir()}
    assert "adapter_model.safetensors" in promoted
    assert "training_args.bin" not in promoted
    assert main(["verify", str(given.path / "promoted")]) == 0


def test_it_is_keyed_by_its_bytes(given: Project) -> None:
    given.run("--finetune")
    first = given.experiment()["key"]
    given.run("--finetune")
    assert (given.experiment()["key"], given.experiment()["training"]["reused"]) == (first, True)
    leave_behind(given.path / "theirs", value=2.0)
    given.run("--finetune")
    assert given.experiment()["key"] != first
    assert given.experiment()["key_changed"].keys() == {"trainer"}


def matrix(name: str) -> bytes:
    """Return a safetensors file with one matrix of two by two."""
    header = json.dumps({name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", 1, 2, 3, 4)


REFUSED: dict[str, Callable[[Path], object]] = {
    "there is no such folder": lambda folder: folder.rename(folder.with_name("gone")),
    "holds its adapter as a pickle": lambda folder: (folder / "adapter_model.safetensors").rename(
        folder / "adapter_model.bin"
    ),
    "name a folder in it: checkpoint-4": lambda folder: (folder / "adapter_model.safetensors").rename(
        folder / "checkpoint-4" / "adapter_model.safetensors"
    ),
    "and the adapter says otherwise: write dora": lambda folder: leave_behind(
        folder, config={"use_dora": True}
    ),
    "q takes 1 values there and 2 here; the adapter names '/elsewhere/base'": lambda folder: (
        folder.parent / "base" / "model.safetensors"
    ).write_bytes(matrix("q.weight")),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_judged_is_told_in_seconds_under_plain_pytest_with_its_line(
    given: Project, told: str
) -> None:
    REFUSED[told](given.path / "theirs")
    text = (given.path / "conftest.py").read_text()
    start, end = text.index("def pytest_finetune_train"), text.index("class TableRuntime")
    given.write({"conftest.py": text[:start] + text[end:]})
    result = given.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*finetune.yaml:4: trained.adapter: *{told}*"])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"use_dora": True}, "write dora"),
        ({"peft_type": "PROMPT_TUNING"}, "an adapter of type 'PROMPT_TUNING'"),
    ],
)
def test_an_adapter_of_another_kind_fails_the_run_in_one_sentence(
    given: Project, config: dict[str, object], told: str
) -> None:
    leave_behind(given.path / "theirs", config=config)
    result = given.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*trained.adapter: *{told}*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_it_may_be_an_arm_to_beat(project: Project) -> None:
    leave_behind(project.path / "theirs", config={"base_model_name_or_path": "org/other"})
    text = (project.path / "finetune.yaml").read_text()
    project.write({"finetune.yaml": text + "arms: {mine: {adapter: theirs}}\n"})
    assert project.run("--finetune").ret == 1  # the same answers as the tuned one's: not beaten
    arm = project.experiment()["arms"]["mine"]
    assert (arm["path"], arm["model"]) == ("theirs", "adapter")
    assert project.experiment()["decision"]["verdict"] != "keep"
