"""Architecture families from plan to a verified bundle; every family at night, one of each mended kind every day."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import STAGES, WORKS, Outcome, outcome, page
from benchmarks.family_shapes import SHAPES
from pytest_finetune.fingerprint import match_of_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # of four libraries and sixty architectures
EVERY_DAY = {"Gemma 3": "verify", "Nemotron-H": "merge", "Qwen2.5-VL": "merge"}


@pytest.mark.parametrize("name", EVERY_DAY)
def test_a_family_works_from_plan_to_a_verified_bundle(name: str, tmp_path: Path) -> None:
    last = EVERY_DAY[name]
    stages = STAGES[: STAGES.index(last) + 1]
    assert outcome(name, tmp_path, SHAPES[name], last=last).stages == dict.fromkeys(stages, WORKS)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in SHAPES if name not in EVERY_DAY])
def test_a_family_works_or_is_refused_in_words(name: str, tmp_path: Path) -> None:
    said = outcome(name, tmp_path, SHAPES[name])
    assert not said.raw, said.stages
    if said.stages.get("answer") == WORKS:
        assert (said.stages["bundle"], said.stages["verify"]) == (WORKS, WORKS)
    assert match_of_layers(tmp_path / "base") is None


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "settings", "stage"),
    [
        ("Qwen3-MoE", {"lora.init_lora_weights": "olora"}, "train"),
        ("Qwen3-MoE", {"lora.dropout": 0.05}, "train"),
        ("GPT-2", {"lora.init_lora_weights": "olora"}, "train"),
        ("GPT-2", {"peft_method": "qlora", "quantization": "nf4"}, "merge"),
        (
            "Llama",
            {"lora.init_lora_weights": "pissa", "lora.target_modules": ["q_proj", "embed_tokens"]},
            "train",
        ),
        ("Llama", {"peft_method": "dora", "quantization": "int8"}, "train"),
        ("OPT", {"training.packing": True}, "train"),
        ("Bamba", {"training.packing": True}, "train"),
    ],
)
def test_what_a_family_cannot_do_is_refused_in_words(
    name: str, settings: dict[str, object], stage: str, tmp_path: Path
) -> None:
    said = outcome(name, tmp_path, SHAPES[name], last="merge", **settings)
    assert not said.raw, said.stages
    assert said.stages[stage] != WORKS


def test_the_page_holds_a_line_for_each_family_and_each_thing_said() -> None:
    works = Outcome("Llama", dict.fromkeys(STAGES, WORKS), [], 3.2)
    refused = Outcome(
        "Odd", {"premises": WORKS, "plan": WORKS, "train": "cannot\n  do it"}, ["a * note"], 1.0
    )
    lines = page([works, refused], 120).splitlines()
    assert "| Llama | yes | yes | yes | yes | yes | yes | 3 |" in lines
    assert "| Odd | yes | refused | - | - | - | - | 1 |" in lines
    assert lines[-2:] == ["- **Odd**: cannot do it", r"- **Odd**: a \* note"]
