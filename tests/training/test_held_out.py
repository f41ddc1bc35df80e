from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import Lora, Training
from pytest_finetune.training.held_out import _batches, chosen, held_out
from pytest_finetune.training.request import Progress, TrainingRequest, TrainingResult
from pytest_finetune.training.sft import train
from pytest_finetune.training.tokenised import TokenRow

from .conftest import question, sums

Ask = Callable[..., TrainingRequest]

TRAINING = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    num_train_epochs=2.0,
    sft={"save_steps": 1},
)
UNSEEN = sums(24)[16:]
METHODS: dict[str, dict[str, Any]] = {
    "dropout": {"lora": Lora(r=4, alpha=8, dropout=0.3)},
    "qlora": {"method": "qlora", "quantization": "nf4"},
    "int8": {"quantization": "int8"},
    "packed": {"training": replace(TRAINING, packing=True, per_device_train_batch_size=1)},
}


def weights(result: TrainingResult) -> bytes:
    return (result.folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_held_out_rows_leave_the_adapter_as_it_is_bit_for_bit(name: str, ask: Ask) -> None:
    changes = {"training": TRAINING, **METHODS[name]}
    without = train(ask("without", **changes))
    beside = train(ask("beside", held_out=UNSEEN, **changes))
    assert weights(without) == weights(beside)
    assert without.log == beside.log
    assert without.held_out_loss == ()
    assert [entry["epoch"] for entry in beside.held_out_loss] == [1.0, 2.0]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_the_held_out_loss_is_that_of_the_saved_adapter(ask: Ask, tiny_base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = train(ask(training=TRAINING, held_out=UNSEEN))
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), result.folder
    ).eval()
    total, tokens = 0.0, 0
    for pair in UNSEEN:
        whole = tokenizer(f"{pair.prompt}{pair.completion}{tokenizer.eos_token}")["input_ids"]
        start = len(tokenizer(pair.prompt)["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole])).logits[0, start - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(whole[start:]), reduction="sum")
        total, tokens = total + float(loss), tokens + len(whole) - start
    assert result.held_out_loss[-1]["loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert result.held_out_loss[-1]["step"] == result.steps == 8


def test_an_epoch_cut_short_by_max_steps_ends_with_its_held_out_loss(ask: Ask) -> None:
    result = train(ask(training=replace(TRAINING, max_steps=5), held_out=UNSEEN))
    assert [entry["step"] for entry in result.held_out_loss] == [4, 5]


class Killed(BaseException):
    """Stands for a kill."""


def test_a_resumed_training_keeps_the_held_out_losses_from_before(ask: Ask) -> None:
    def die(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    whole = train(ask("whole", training=TRAINING, held_out=UNSEEN))
    with pytest.raises(Killed):
        train(ask(training=TRAINING, held_out=UNSEEN, progress=die))
    resumed = train(ask(training=TRAINING, held_out=UNSEEN))
    assert resumed.resumed_from == 4
    assert resumed.held_out_loss == whole.held_out_loss
    assert weights(resumed) == weights(whole)


def test_other_held_out_rows_go_on_from_the_same_checkpoint(ask: Ask) -> None:
    def die(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(ask(training=TRAINING, held_out=UNSEEN, progress=die))
    assert train(ask(training=TRAINING, held_out=UNSEEN[:3])).resumed_from == 4


def test_a_held_out_row_whose_prompt_fills_the_length_is_left_out(ask: Ask) -> None:
    long = Pair(question(1, 1) * 40, " 2")
    alone = train(ask("alone", training=replace(TRAINING, max_steps=1), held_out=(long,)))
    mixed = train(ask("mixed", training=replace(TRAINING, max_steps=1), held_out=(*UNSEEN, long)))
    plain = train(ask("plain", training=replace(TRAINING, max_steps=1), held_out=UNSEEN))
    assert alone.held_out_loss == ()
    assert mixed.held_out_loss == plain.held_out_loss


def test_a_long_held_out_file_is_sampled_evenly() -> None:
    assert chosen(range(1000), 4) == [0, 250, 500, 750]
    assert chosen("abc", 4) == ["a", "b", "c"]


def test_held_out_rows_of_like_length_are_read_together_and_little_is_padded() -> None:
    lengths = (3, 9, 4, 10, 3, 8, 4, 9)
    rows = [TokenRow(f"t:{at}", tuple(range(length)), 1, True) for at, length in enumerate(lengths)]
    asked = held_out(rows, max_length=9, batch=4)  # the row of 10 is cut
    batches = [[len(one["input_ids"]) for one in batch] for batch in _batches(asked)]
    assert batches == [[9, 9, 9, 8], [4, 4, 3, 3]]
    padded = [len(batch) * max(batch) - sum(batch) for batch in batches]
    assert padded == [1, 2]  # of 52 tokens; in the order of the file it were 26 of 75
