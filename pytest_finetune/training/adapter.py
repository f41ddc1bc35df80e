"""The adapter: its configuration in PEFT, the check of what it is put on, the two files that it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from pytest_finetune.experiment import Experiment
from pytest_finetune.memory.tracer.targets import Chosen, TargetError, Wanted, choose
from pytest_finetune.training.artifact import ADAPTER, ADAPTER_CONFIG
from pytest_finetune.training.coverage import covered
from pytest_finetune.training.processes import ranks, sharing
from pytest_finetune.training.request import TrainingError
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS: Final = ADAPTER
CONFIG: Final = ADAPTER_CONFIG


def lora_config(experiment: Experiment, chosen: Chosen) -> LoraConfig:
    """Return PEFT's configuration of the experiment's adapter on the modules that were chosen."""
    lora = experiment.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=chosen.targets,
        exclude_modules=chosen.excluded,
        use_rslora=lora.use_rslora,
        use_dora=experiment.peft_method == "dora",
        init_lora_weights=lora.init_lora_weights,
        task_type="CAUSAL_LM",
    )


def chosen_targets(model: PreTrainedModel, experiment: Experiment) -> Chosen:
    """Return what PEFT is asked to adapt in a loaded base; TrainingError names what cannot be adapted."""
    lora = experiment.lora
    if experiment.peft_method == "dora" and experiment.quantization == "int8" and model.device.type == "cpu":
        raise TrainingError(
            "peft_method: dora with quantization: int8 cannot be computed on a CPU: there PEFT loses the scales of the "
            "8-bit weights when it reads them for their norms\n  take quantization: nf4 or none, or a GPU"
        )
    dora = experiment.peft_method == "dora"
    wanted = Wanted(lora.dropout, dora, str(lora.init_lora_weights), lora.r)
    try:
        return choose(model, lora.target_modules, wanted)
    except TargetError as error:
        raise TrainingError(str(error)) from None


def uncovered(model: PeftModel, experiment: Experiment, chosen: Chosen) -> list[str]:
    """Say which modules carry no adapter, of all that were asked for."""
    return [*chosen.left_out, *covered(model, experiment.lora.target_modules, chosen)]


def trainable_share(model: PreTrainedModel) -> tuple[int, int]:
    """Return how many parameters are trained and how many there are; TrainingError when none is trained."""
    if hasattr(model, "get_nb_trainable_parameters"):  # knows the packed size of quantised weights
        trainable, every = model.get_nb_trainable_parameters()
    else:
        sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
        trainable, every = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
    if trainable == 0:
        raise TrainingError(
            f"none of the model's {every} parameters would be trained: check lora.target_modules"
        )
    return int(trainable), int(every)


def first_weights(model: PeftModel, experiment: Experiment) -> dict[str, torch.Tensor] | None:
    """Return the adapter's weights before the first step where they were taken out of the base, else None."""
    return _state(model) if experiment.lora.changes_base else None


def save_adapter(
    model: PreTrainedModel,
    experiment: Experiment,
    folder: Path,
    first: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter of a PEFT model as two files whose bytes depend on nothing but the training.

    Of a model that is shared out every process has to be here, and the first writes. With `first` the adapter is
    written for the untouched base, else for the base that it was trained on. Raises TrainingError when a weight is not
    finite.
    """
    tensors = _state(model)
    if not ranks.is_first():
        return
    config = _canonical(model.peft_config["default"].to_dict(), experiment)
    if first is not None:
        tensors, config = _for_untouched_base(tensors, first), _doubled(config)
    _check_finite(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _state(model: PeftModel) -> dict[str, torch.Tensor]:
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        name: sharing.whole(tensor.detach()).to("cpu", copy=True).contiguous()
        for name, tensor in sorted(state.items())
    }


def _for_untouched_base(
    tensors: Mapping[str, torch.Tensor], first: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the update that the untouched base W needs.

    The training ran on W - s B0 A0. So W - s B0 A0 + s B A = W + s [B, -B0] [A; A0], of twice the rank
    (PiSSA, arXiv:2404.02948, appendix C; PEFT's `path_initial_model_for_weight_conversion`).
    """
    whole = dict(tensors)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            whole[name] = torch.cat([tensor, first[name]], dim=0).contiguous()
        elif ".lora_B." in name:
            whole[name] = torch.cat([tensor, -first[name]], dim=1).contiguous()
    return whole


def _doubled(config: Json) -> JsonTree:
    """Return the configuration for twice the rank under the same scale; loading must not touch the base again."""
    factor = 2**0.5 if config["use_rslora"] else 2
    return {
        **config,
        "r": 2 * config["r"],
        "lora_alpha": factor * config["lora_alpha"],
        "init_lora_weights": True,
    }


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model that was trained in full, with its tokenizer: a folder that plain transformers loads.

    Of a model that is shared out every process has to be here, and the first writes. Raises TrainingError when a weight
    is not finite.
    """
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if any(sharing.is_share(tensor) for tensor in tensors.values()):
        tensors = {name: sharing.whole(tensor).cpu() for name, tensor in tensors.items()}
    if not ranks.is_first():
        return
    _check_finite(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    use_cache, model.config.use_cache = model.config.use_cache, True  # checkpointed activations switch it off
    model.save_pretrained(folder, state_dict=tensors, max_shard_size="1TB")
    model.config.use_cache = use_cache
    tokenizer.save_pretrained(folder)


def _check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            "the trained weights hold numbers that are not finite, in "
            f"{len(broken)} of {len(tensors)} tensors ({broken[0]}): not stored\n"
            "  lower training.learning_rate"
        )


def _canonical(config: Json, experiment: Experiment) -> JsonTree:
    """Return PEFT's configuration in one order, with the base as the experiment names it."""
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    plain = {name: getattr(value, "value", value) for name, value in plain.items()}
    return {
        **plain,
        "base_model_name_or_path": experiment.base_model,
        "revision": experiment.revision,
        "inference_mode": True,
    }


def use_float32(model: PreTrainedModel) -> None:
    """Train the adapter in float32, though TRL has cast that of a quantised base to bfloat16.

    For devices that do not compute in bfloat16: a CPU gains nothing by the cast and loses small updates, a
    GPU that scales its gradients for float16 cannot scale bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
