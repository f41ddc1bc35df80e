"""Whether packed rows stay apart in a model: what one of them says must not hang on those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.training.request import TrainingError
from pytest_finetune.wording import figure, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH: Final = 48
# As a share of the largest logit: rounding moves it by less, another row's tokens by far more.
_ROUNDING: Final = {"float32": 0.005}
_ROUNDING_16: Final = 0.1


def check_packing(model: PreTrainedModel, collate: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raise TrainingError unless a row has the same logits behind another one, as `collate` packs them, as alone."""
    import torch

    first, second = (list(ids)[:LENGTH] for ids in (rows[0], rows[-1]))
    example = {"input_ids": [*first, *second], "labels": [*first, *second]}
    packed = collate([{**example, "seq_lengths": [len(first), len(second)]}])
    packed = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in packed.items()
        if name != "labels"
    }
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            behind = model(**packed, use_cache=False).logits[0, len(first) :].float()
            alone = (
                model(input_ids=torch.tensor([second], device=model.device), use_cache=False)
                .logits[0]
                .float()
            )
    except ValueError as error:
        raise TrainingError(_cannot(one_line(error, 300))) from None
    finally:
        model.train(training)
    moved, largest = float((behind - alone).abs().max()), float(alone.abs().max())
    rounding = _ROUNDING.get(str(model.dtype).removeprefix("torch."), _ROUNDING_16)
    if not moved <= rounding * largest:
        raise TrainingError(
            _cannot(
                f"a row's logits move by up to {figure(moved, 2)} (of {figure(largest, 2)}) when another row stands "
                "before it in the pack"
            )
        )


def _cannot(why: str) -> str:
    return (
        "training.packing: true cannot be used with this model, which does not keep packed rows apart: "
        f"{why}\n  leave packing out"
    )
