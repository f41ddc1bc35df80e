"""One model shared out over the processes: each holds its share of every weight (FSDP 2), by accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from pytest_finetune.memory.tracer.model import repeated_layers
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def share_out(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Tell accelerate to share the model out when it prepares it: the decoder's layers one by one, then the rest.

    Left to itself it does so on cards alone, and on CPUs trains a whole copy in each process without a word. Weights
    travel in the dtype that they are kept in, so that gradients add up as they do in one process; accelerate would
    round them to 16 bits.
    """
    _check(accelerator.device, model)
    layers = {type(layer).__name__ for layer in repeated_layers(model)}
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=sorted(layers),
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def _check(device: torch.device, model: PreTrainedModel) -> None:
    """Raise TrainingError for a device or a base that cannot be shared out."""
    packed = [name for name, weight in model.named_parameters() if not weight.is_floating_point()]
    if packed:
        raise TrainingError(
            f"training.shard: {packed[0]} and {len(packed) - 1} more weights of the base are stored packed, and stay "
            "whole on each card: name the model that this base was made from, or leave shard out"
        )
    here = torch.accelerator.current_accelerator()
    if device.type == "cpu" and here is not None:
        raise TrainingError(
            f"training.shard on a CPU needs a torch without {here.type}, onto which it would share the model out: "
            f"write --finetune-device={here.type}"
        )


def check_shared(model: PreTrainedModel) -> None:
    """Raise TrainingError when weights that should lie in shares are whole in each process."""
    whole = [name for name, weight in model.named_parameters() if not isinstance(weight, DTensor)]
    if whole:
        raise TrainingError(
            f"training.shard: {len(whole)} weights are whole in each process after accelerate has prepared the model "
            f"({whole[0]}): nothing was trained; leave shard out, or upgrade accelerate"
        )


def is_share(tensor: torch.Tensor) -> bool:
    """Tell whether this process holds but its share of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as one process would hold it; of a share, every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held_here(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, without asking the others."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held_bytes(model: PreTrainedModel) -> tuple[int, int]:
    """Return the bytes of the weights that this process holds, and those of the whole model."""
    weights = list(model.parameters())
    return sum(map(_bytes, map(held_here, weights))), sum(map(_bytes, weights))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
