from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pytest_finetune.answering.runtimes.gguf.tools import FOLDER
from pytest_finetune.cli import doctor
from pytest_finetune.data.rows import Rows
from pytest_finetune.experiment import load_experiment
from pytest_finetune.suite.steps.runtime_findings import gguf_findings

if TYPE_CHECKING:
    from .conftest import World


def states(world: World, *words: str) -> dict[str, tuple[str, str]]:
    return {
        one["what"]: (one["state"], one["told"])
        for one in world.run("doctor", "--json", *words).tree["found"]
    }


def test_each_line_is_ok_or_the_one_thing_to_do_and_nothing_is_written(world: World) -> None:
    ran = world.run("doctor")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "everything is here"
    found = states(world)
    assert found["experiment"] == ("ok", "finetune.yaml: priority, lora on model")
    assert found["rows"] == ("ok", "12 to train on, 40 held out; `pytest` checks them")
    assert found["store"][1].startswith("0 adapters, 0 records in ")
    assert not (world.root / ".finetune").exists()


def test_a_base_that_is_not_here_is_fetched(world: World) -> None:
    found = states(world, "--set", "base_model=org/elsewhere")
    assert found["base model"] == ("to do", "org/elsewhere is not here: pytest-finetune fetch")
    ran = world.run("doctor", "--set", "base_model=org/elsewhere")
    assert (ran.code, ran.out.splitlines()[-1]) == (1, "1 thing to do")


def test_a_base_whose_folder_is_not_there_is_neither_ready_nor_fetched(world: World) -> None:
    state, told = states(world, "--set", "base_model=models/of/mine")["base model"]
    assert state == "to do"
    assert told.endswith("models/of/mine': correct base_model, or make it")
    fetched = world.run("fetch", "--set", "base_model=models/of/mine")
    assert (fetched.code, fetched.out) == (2, "")
    assert "and a name of the hub is ORG/NAME: correct base_model" in fetched.err


def test_a_mistake_in_the_experiment_is_told_and_the_rest_is_looked_at_all_the_same(world: World) -> None:
    found = states(world, "--set", "peft_method=lore")
    assert found["experiment"][0] == "to do"
    assert "did you mean 'lora'" in found["experiment"][1]
    assert {"python", "disk", "hub cache"} <= set(found)


def test_a_version_with_a_known_fault_is_named_with_the_one_that_has_it_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "installed_version", lambda package: "2.9.1+cu128" if package == "torch" else "99"
    )
    assert states(world)["torch"] == (
        "to do",
        "2.9.1+cu128: loading weights can run code (CVE-2026-24747, CVE-2025-32434); install torch>=2.10",
    )


def test_an_experiment_with_a_gguf_runtime_needs_llama_cpp(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "llama.cpp" not in states(world)
    monkeypatch.setenv(FOLDER, str(world.root / "lost"))
    state, told = states(world, "--set", "runtimes=[transformers, {name: shipped, gguf: q8_0}]")["llama.cpp"]
    assert state == "to do"
    assert told.startswith(f"a GGUF runtime needs llama.cpp: {FOLDER} names {world.root / 'lost'}, where no")
    assert "brew install llama.cpp" in told


def test_missing_tools_are_a_finding_whose_fix_brings_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(world.root / "lost"))
    world.write(
        "finetune.yaml",
        (world.root / "finetune.yaml").read_text() + "runtimes: [transformers, {name: s, gguf: q8_0}]\n",
    )
    experiment = load_experiment(world.root, "finetune.yaml")
    (found,) = gguf_findings(experiment, cast(Rows, ()), cast(Rows, ()))
    assert found.rule == "gguf/tools"
    assert "\\n" not in found.read
    assert found.fix.startswith("brew install llama.cpp")
    assert found.fix.endswith(
        "or leave the runtime out on this machine: --finetune-set runtimes='[transformers]'"
    )
