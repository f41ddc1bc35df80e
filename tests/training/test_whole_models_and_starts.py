"""Full fine-tuning, and adapters that start from the base's own directions (PiSSA, OLoRA)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.experiment import Generation, Lora, Training
from pytest_finetune.fingerprint import adapter_digest
from pytest_finetune.training.difference import largest_difference
from pytest_finetune.training.request import Progress, TrainingRequest
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
SHORTER = Generation(max_new_tokens=8)
WARNING = "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"  # peft 0.21


def questions(request: TrainingRequest) -> list[Prompted]:
    return [Prompted(str(at), at + 1, str(pair.prompt)) for at, pair in enumerate(request.pairs[:6])]


def test_full_fine_tuning_keeps_a_model_that_answers_in_the_bases_place(ask: Ask, tiny_base: Path) -> None:
    request = ask(training=replace(SHORT, learning_rate=3e-3, max_steps=16), method="full")
    result = train(request)
    assert result.trainable == result.parameters
    assert result.log[-1]["loss"] < result.log[0]["loss"] - 0.3
    assert not (result.folder / "adapter_config.json").exists()

    runtime = TransformersRuntime(str(tiny_base))
    base = [answer.response for answer in runtime.answer(questions(request), SHORTER)]
    tuned = [answer.response for answer in runtime.answer(questions(request), SHORTER, result.folder)]
    again = [answer.response for answer in runtime.answer(questions(request), SHORTER)]
    assert tuned != base
    assert again == base
    assert tuned == plain_answers(result.folder, request)


def plain_answers(folder: Path, request: TrainingRequest) -> list[str]:
    """Answer with transformers alone, one prompt after the other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    answers = []
    for asked in questions(request):
        inputs = tokenizer(asked.prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answers.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


class Killed(BaseException):
    """Stands for a kill."""


def test_a_killed_full_training_goes_on_and_ends_with_the_same_weights(ask: Ask) -> None:
    def die(progress: Progress) -> None:
        if progress.step == 4:
            raise Killed

    training = replace(SHORT, max_steps=6, learning_rate=3e-3, sft={"save_steps": 1})
    whole = train(ask("whole", training=training, method="full"))
    with pytest.raises(Killed):
        train(ask(training=training, method="full", progress=die))
    resumed = train(ask(training=training, method="full"))
    assert resumed.resumed_from == 3
    assert largest_difference(resumed.folder, whole.folder) == 0.0
    assert adapter_digest(resumed.folder) == adapter_digest(whole.folder)


def test_a_whole_model_whose_configuration_imports_code_is_refused(ask: Ask, tiny_base: Path) -> None:
    request = ask(training=replace(SHORT, max_steps=1), method="full")
    folder = train(request).folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(
        AnsweringError, match=r"config\.json has the key 'auto_map', which makes transformers"
    ):
        TransformersRuntime(str(tiny_base)).answer(questions(request), SHORTER, folder)


STARTS: dict[str, dict[str, Any]] = {
    "pissa": {"lora": Lora(r=4, alpha=8, init_lora_weights="pissa")},
    "pissa_niter_4": {"lora": Lora(r=4, alpha=8, init_lora_weights="pissa_niter_4")},
    "olora": {"lora": Lora(r=4, alpha=8, init_lora_weights="olora")},
    "rank-stabilised pissa": {"lora": Lora(r=4, alpha=8, init_lora_weights="pissa", use_rslora=True)},
}


@pytest.mark.filterwarnings(WARNING)
@pytest.mark.parametrize("name", STARTS)
def test_an_adapter_that_changed_its_base_gives_the_trained_function_on_the_untouched_one(
    name: str, ask: Ask, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from pytest_finetune.training import adapter

    ids = torch.arange(5, 69).reshape(4, 16)
    seen: list[Any] = []
    save = adapter.save_adapter

    def saving(model: Any, experiment: Any, folder: Path, first: Any = None) -> None:
        if first is not None:
            with torch.no_grad():
                seen.append(model.eval()(input_ids=ids).logits)
        save(model, experiment, folder, first)

    monkeypatch.setattr(adapter, "save_adapter", saving)
    result = train(ask(training=SHORT, **STARTS[name]))
    (trained,) = seen

    untouched = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    with torch.no_grad():
        before = untouched(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(untouched, result.folder).eval()
        after = loaded(input_ids=ids).logits
    assert (before - trained).abs().max() > 0.1
    assert (after - trained).abs().max() < 1e-4
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (8, True)


def test_a_killed_pissa_training_goes_on_and_ends_with_the_same_bytes(ask: Ask) -> None:
    def die(progress: Progress) -> None:
        if progress.step == 4:
            raise Killed

    training = replace(SHORT, sft={"save_steps": 1})
    whole = train(ask("whole", training=training, **STARTS["pissa"]))
    with pytest.raises(Killed):
        train(ask(training=training, progress=die, **STARTS["pissa"]))
    resumed = train(ask(training=training, **STARTS["pissa"]))
    assert resumed.resumed_from == 3
    first, second = ((run.folder / "adapter_model.safetensors").read_bytes() for run in (whole, resumed))
    assert first == second
