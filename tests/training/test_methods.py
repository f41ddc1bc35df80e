from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation, Lora, Training
from pytest_finetune.training.base import BaseSource
from pytest_finetune.training.request import TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]

SHORT = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    max_steps=8,
    lr_scheduler_type="constant",
)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"lora": Lora(r=4, alpha=8, use_rslora=True)},
    "dora": {"method": "dora"},
    "qlora": {"method": "qlora", "quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "qdora": {"method": "dora", "quantization": "nf4"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_its_adapter_answers_otherwise_than_the_base(
    name: str, ask: Ask, tiny_base: Path
) -> None:
    request = ask(training=replace(SHORT, max_steps=16), **METHODS[name])
    result = train(request)
    assert result.log[-1]["loss"] < result.log[0]["loss"] - 0.3
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["use_dora"] == (request.experiment.peft_method == "dora")
    assert config["use_rslora"] == (name == "rslora")

    runtime = TransformersRuntime(str(tiny_base), quantization=request.experiment.quantization)
    asked = [Prompted("a", 1, str(request.pairs[0].prompt)), Prompted("b", 2, str(request.pairs[5].prompt))]
    generation = Generation(max_new_tokens=8)
    base = [answer.response for answer in runtime.answer(asked, generation)]
    tuned = [answer.response for answer in runtime.answer(asked, generation, result.folder)]
    again = [answer.response for answer in runtime.answer(asked, generation)]
    assert tuned != base
    assert again == base


@pytest.mark.parametrize("name", ["qlora", "int8", "dora"])
def test_every_method_gives_the_same_bytes_twice(name: str, ask: Ask) -> None:
    first, second = (train(ask(into, training=SHORT, **METHODS[name])) for into in ("first", "second"))
    weights = [(result.folder / "adapter_model.safetensors").read_bytes() for result in (first, second)]
    assert weights[0] == weights[1]


def test_an_adapter_of_a_quantised_base_is_trained_and_stored_in_float32_on_the_cpu(ask: Ask) -> None:
    from safetensors.torch import load_file

    result = train(ask(training=SHORT, **METHODS["qlora"]))
    assert {
        str(tensor.dtype) for tensor in load_file(result.folder / "adapter_model.safetensors").values()
    } == {"torch.float32"}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_the_adapter_loads_with_plain_peft_and_gives_the_same_answers(ask: Ask, tiny_base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    request = ask(training=replace(SHORT, max_steps=16))
    result = train(request)
    prompt = str(request.pairs[3].prompt)
    runtime = TransformersRuntime(str(tiny_base))
    (answer,) = runtime.answer([Prompted("a", 1, prompt)], Generation(max_new_tokens=8), result.folder)

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), result.folder
    )
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.response == text


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "adafactor"])
def test_memory_saving_optimizers_train_on_the_cpu(optim: str, ask: Ask) -> None:
    result = train(ask(training=replace(SHORT, optim=optim)))
    assert result.log[-1]["loss"] < result.log[0]["loss"]


def test_gradient_checkpointing_changes_the_memory_and_not_the_adapter(ask: Ask) -> None:
    plain = train(ask("plain", training=SHORT))
    saving = train(ask("saving", training=replace(SHORT, gradient_checkpointing=True)))
    assert (plain.folder / "adapter_model.safetensors").read_bytes() == (
        saving.folder / "adapter_model.safetensors"
    ).read_bytes()


def test_packed_rows_are_trained_on_in_fewer_steps(ask: Ask) -> None:
    epoch = replace(SHORT, max_steps=None, num_train_epochs=1.0, per_device_train_batch_size=1)
    plain = train(ask("plain", training=epoch))
    packed = train(ask("packed", training=replace(epoch, packing=True)))
    assert plain.steps == 16
    assert packed.steps == 3
    assert packed.tokens["supervised"] == plain.tokens["supervised"]


def lora_gradients(model: Any) -> Any:
    """Return the adapter's gradients on one fixed batch, flat, with fixed adapter weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    )
    wrapped.train()
    ids = torch.arange(5, 37).reshape(2, 16)
    wrapped(input_ids=ids, labels=ids).loss.backward()
    return torch.cat([weight.grad.flatten() for weight in wrapped.parameters() if weight.grad is not None])


@pytest.fixture
def evaluated_and_fresh(tiny_base: Path) -> Iterator[Callable[[bool], tuple[Any, Any]]]:
    """Give two NF4 bases, one of which has answered; ``guarded`` says whether our guard is left in place."""
    from pytest_finetune.training.model import load_model

    def make(guarded: bool) -> tuple[Any, Any]:
        runtime = TransformersRuntime(str(tiny_base), quantization="nf4")
        if not guarded:
            for module in runtime.model.modules():
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = True
        runtime.generate(["Instruction: add\nInput: 1 and 2\nAnswer:"])
        return runtime.model, load_model(BaseSource(str(tiny_base), quantization="nf4"), "cpu")

    return make  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_qlora_gradients_are_right_after_the_base_has_answered(
    evaluated_and_fresh: Callable[[bool], tuple[Any, Any]],
) -> None:
    import torch

    evaluated, fresh = evaluated_and_fresh(True)
    cosine = torch.nn.functional.cosine_similarity(lora_gradients(evaluated), lora_gradients(fresh), dim=0)
    assert cosine > 0.999


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.filterwarnings(
    "ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered:UserWarning"
)
def test_without_the_guard_an_avx512_bf16_cpu_gets_them_wrong(
    evaluated_and_fresh: Callable[[bool], tuple[Any, Any]],
) -> None:
    import torch
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16: bitsandbytes repacks nothing here")
    evaluated, fresh = evaluated_and_fresh(False)
    cosine = torch.nn.functional.cosine_similarity(lora_gradients(evaluated), lora_gradients(fresh), dim=0)
    assert cosine < 0.999
