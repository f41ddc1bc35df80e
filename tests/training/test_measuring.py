"""The two steps of the longest batch before the training, on a CPU with a meter that is told what to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_finetune.experiment import Lora, Training
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.memory.measure import Fit, Measured
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.training import measuring
from pytest_finetune.training.memory_error import OutOfMemoryError
from pytest_finetune.training.processes import ranks
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]

TRAINING = Training(
    max_seq_length=128,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=1e-2,
    max_steps=3,
    gradient_checkpointing=True,
)


@dataclass(slots=True)
class Told:
    """A meter that says what it is told."""

    says: Measured
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1

    def read(self) -> Measured:
        return self.says


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told(Measured(3 * GiB, 4 * GiB, 4 * GiB + 600 * MiB))
    monkeypatch.setattr(measuring, "meter_of", lambda request: told)
    return told


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_a_measured_training_gives_the_same_adapter_to_the_byte(
    ask: Ask, meter: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = Lora(r=4, alpha=8, dropout=0.3)  # draws from the random state
    measured = train(
        ask("measured", training=TRAINING, lora=lora, fit=Fit(parse_budget("8GiB"), None, Planner(None)))
    )
    assert meter.begun == 2
    monkeypatch.setattr(measuring, "meter_of", lambda request: None)
    plain = train(ask("plain", training=TRAINING, lora=lora))
    assert weights(measured.folder) == weights(plain.folder)
    assert [entry["loss"] for entry in measured.log] == [entry["loss"] for entry in plain.log]
    assert measured.measured == {
        "measured_peak_bytes": 4 * GiB + 600 * MiB,
        "measured_allocated_bytes": 3 * GiB,
        "measured_reserved_bytes": 4 * GiB,
    }
    assert plain.measured == {}


def test_what_is_measured_is_the_longest_rows(ask: Ask, meter: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    seen: list[tuple[int, ...]] = []
    compute = SFTTrainer.compute_loss

    def noted(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        seen.append(tuple(inputs["input_ids"].shape))
        return compute(self, model, inputs, *rest, **named)

    monkeypatch.setattr(SFTTrainer, "compute_loss", noted)
    result = train(ask(training=TRAINING))
    two_steps_of_two = seen[:4]
    assert set(two_steps_of_two) == {(2, result.tokens["max"])}
    assert max(tokens for _, tokens in seen[4:]) <= result.tokens["max"]


def test_a_measurement_over_the_budget_is_a_refusal_before_the_first_step(ask: Ask, meter: Told) -> None:
    steps: list[int] = []
    request = ask(
        training=TRAINING,
        fit=Fit(parse_budget("2GiB"), None, Planner(None)),
        progress=lambda progress: steps.append(progress.step),
    )
    with pytest.raises(
        TrainingError, match=r"^not trained: the longest batch took 3\.6 GiB \(measured\)"
    ) as caught:
        train(request)
    assert not isinstance(caught.value, OutOfMemoryError)
    assert steps == []
    assert not request.folder.exists()


def test_running_out_while_measuring_names_the_longest_rows(
    ask: Ask, meter: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *given: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(measuring.LongestStep, "_forward_backward", full)
    with pytest.raises(
        OutOfMemoryError, match=r"the batch: 2 x \d+ tokens \(data/train\.jsonl:\d+, data/train\.jsonl:\d+\)"
    ):
        train(ask(training=TRAINING))


def test_nothing_is_measured_where_no_device_counts(ask: Ask) -> None:
    assert measuring.meter_of(ask()) is None


@pytest.mark.gpu(min_gib=2)
def test_a_training_on_a_card_is_measured_first(ask: Ask) -> None:
    measured = train(ask(device="cuda", training=TRAINING)).measured
    assert 0 < measured["measured_allocated_bytes"] <= measured["measured_reserved_bytes"]
    assert measured["measured_reserved_bytes"] < measured["measured_peak_bytes"]
    json.dumps(measured)


def test_processes_that_train_together_go_on_or_refuse_together_by_the_largest_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = {3 * GiB: 2 * GiB, 4 * GiB: 6 * GiB, 5 * GiB: 5 * GiB}
    monkeypatch.setattr(ranks, "largest", lambda own, device: max(own, others[own]))
    together = measuring._of_all(Measured(3 * GiB, 4 * GiB, 5 * GiB), torch.device("cpu"))
    assert together == Measured(3 * GiB, 6 * GiB, 5 * GiB)
