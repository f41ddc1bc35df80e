"""What could run code when it is loaded is refused, with the reason, before anything is trained or asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project


def test_a_base_with_pickled_weights_alone_is_refused(project: Project) -> None:
    (project.path / "base" / "model.safetensors").rename(project.path / "base" / "pytorch_model.bin")
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*has pickle weights only (pytorch_model.bin); a pickle can run any code when it is loaded*"]
    )
    assert project.calls() == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ({"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}, "text_config.auto_map"),
    ],
)
def test_a_base_whose_configuration_imports_code_is_refused(
    project: Project, config: dict[str, object], named: str
) -> None:
    project.write({"base/config.json": json.dumps({"model_type": "llama", **config})})
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"*config.json in * makes transformers import code ({named}); read that code, then allow it with "
            "`trust_remote_code: true` in the experiment*"
        ]
    )
    assert project.calls() == []


def test_code_is_trusted_only_where_the_experiment_says_so_and_the_record_holds_it(project: Project) -> None:
    project.write(
        {"base/config.json": json.dumps({"model_type": "llama", "auto_map": {"AutoConfig": "ours.Config"}})}
    )
    assert project.run("--finetune", "--finetune-set", "trust_remote_code=true").ret == 0
    assert project.experiment()["config"]["trust_remote_code"] is True


def test_an_adapter_in_the_store_that_became_a_pickle_is_set_aside_and_trained_anew(project: Project) -> None:
    project.run("--finetune")
    folder = project.path / project.experiment()["training"]["adapter_path"]
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    project.calls()
    result = project.run("--finetune")
    assert result.ret == 0
    assert "train" in project.calls()
    assert any("adapter_model.bin is a foreign file" in note for note in project.record()["notes"])
