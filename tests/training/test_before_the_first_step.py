from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import Lora, Training
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]


def refused(request: TrainingRequest) -> str:
    with pytest.raises(TrainingError) as caught:
        train(request)
    assert not request.folder.exists()
    return str(caught.value)


def test_a_target_that_matches_no_module_is_named_with_what_the_model_has(ask: Ask) -> None:
    message = refused(ask(lora=Lora(target_modules=("q_proj", "v_prj", "query_key_value"))))
    assert message == (
        "lora.target_modules asks for modules that the base model does not have: nothing would be trained\n"
        "  'v_prj': did you mean 'v_proj'?\n"
        "  'query_key_value'\n"
        "  linear modules of this model: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj "
        "(or all-linear)"
    )


def test_a_target_expression_that_matches_nothing_is_named(ask: Ask) -> None:
    assert "'.*attention.query'" in refused(ask(lora=Lora(target_modules=".*attention.query")))


def test_a_target_expression_trains_what_it_matches(ask: Ask) -> None:
    result = train(ask(lora=Lora(r=2, target_modules=r".*layers\.0\..*(q|v)_proj")))
    from safetensors import safe_open

    with safe_open(result.folder / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert len(names) == 4
    assert all("layers.0." in name for name in names)


def test_the_output_head_cannot_be_a_target(ask: Ask) -> None:
    message = refused(ask(lora=Lora(target_modules=("q_proj", "lm_head"))))
    assert message.startswith("lora.target_modules asks for 'lm_head', the output head")


def test_a_base_without_weights_is_refused(ask: Ask, tiny_base: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_base, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    said = f"base model: {str(bare)!r} has no weights: no *.safetensors file in it"
    assert refused(ask(base=str(bare))) == said


def test_a_base_with_pickled_weights_only_is_refused(ask: Ask, tiny_base: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(tiny_base, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = refused(ask(base=str(pickled)))
    assert "has pickle weights only (pytorch_model.bin); a pickle can run any code" in message
    assert "safe_serialization=True" in message


def test_a_shard_that_the_index_names_must_be_there(ask: Ask, tiny_base: Path, tmp_path: Path) -> None:
    sharded = shutil.copytree(tiny_base, tmp_path / "sharded")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002.safetensors, which its index names" in refused(ask(base=str(sharded)))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("config.json", "has no config.json (found: "),
        ("tokenizer*", "no tokenizer (tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(
    ask: Ask, tiny_base: Path, tmp_path: Path, lost: str, said: str
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "part", ignore=shutil.ignore_patterns(lost))
    assert said in refused(ask(base=str(folder)))


def test_a_tokenizer_without_a_stop_token_is_refused(ask: Ask, tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "endless")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    assert "its tokenizer names no stop token" in refused(ask(base=str(folder)))


def test_a_chat_template_that_never_writes_the_stop_token_is_refused(
    ask: Ask, base_builder: Callable[..., Path], tmp_path: Path
) -> None:
    endless = base_builder(
        tmp_path / "endless",
        chat="{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
    )
    pairs = (Pair([{"role": "user", "content": "1+1"}], [{"role": "assistant", "content": "is 2"}]),)
    message = refused(ask(base=str(endless), pairs=pairs))
    assert "1 of 1 training rows never show the stop token '</s>' (id 2)" in message
    assert "data/train.jsonl:1" in message


def test_a_chat_needs_a_chat_template(ask: Ask, base_builder: Callable[..., Path], tmp_path: Path) -> None:
    plain = base_builder(tmp_path / "plain", chat=None)
    pairs = (Pair([{"role": "user", "content": "1+1"}], [{"role": "assistant", "content": "2"}]),)
    assert "has no chat template" in refused(ask(base=str(plain), pairs=pairs))


def test_rows_that_do_not_fit_are_refused_before_anything_is_trained(ask: Ask) -> None:
    message = refused(ask(training=Training(max_seq_length=17)))
    assert message.startswith("16 of 16 training rows are longer than max_seq_length 17 (allowed: 0)")
    assert "data/train.jsonl:1 (18 tokens)" in message


def test_truncated_rows_that_are_allowed_are_trained_on_and_counted(ask: Ask) -> None:
    training = Training(max_seq_length=17, max_steps=1, gradient_accumulation_steps=1)
    result = train(ask(training=training, max_truncated=16))
    assert result.tokens["truncated"] == 16


def test_a_folder_whose_code_is_asked_for_is_refused_without_consent(
    ask: Ask, tiny_base: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('this code ran')\n")
    assert "trust_remote_code" in refused(ask(base=str(folder)))


def test_a_request_needs_a_place_for_every_pair(ask: Ask) -> None:
    with pytest.raises(ValueError, match="16 pairs but 1 places"):
        replace(ask(), rows=("t:1",))
