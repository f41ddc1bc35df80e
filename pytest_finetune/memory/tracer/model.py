"""Build the model of a workload without its weights: meta tensors first, then tensors of the ambient mode.

Building under FakeTensorMode fails (Module._apply must swap fake parameters, which the mode's weak
references forbid), so the model is made and wrapped with PEFT on the meta device and its tensors are
replaced afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from pytest_finetune.fingerprint import numbers
from pytest_finetune.fingerprint.quantization import OWN_KEYS
from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.plan.workload import Adapter, Workload, layer_count, text_config
from pytest_finetune.memory.tracer.architectures import auto_class, name_backbone
from pytest_finetune.memory.tracer.kernels import ATTENTION
from pytest_finetune.memory.tracer.targets import SENSES, TargetError, Wanted, choose
from pytest_finetune.wording import one_line

if TYPE_CHECKING:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

Tensor = torch.Tensor
HEAD: Final = ("lm_head", "embed_out", "output")
_LAYER: Final = re.compile(r"\.(\d+)\.")


class Resident(NamedTuple):
    """A tensor that is there before the first step: its parameter's name and its part of the breakdown."""

    name: str
    tensor: Tensor
    part: str


def build(workload: Workload, prepare: Callable[[PreTrainedModel], None]) -> PreTrainedModel:
    """Return the model on the meta device, as training wraps it; `prepare` is what its trainer does to the base."""
    model = _base(workload)
    prepare(model)
    for parameter in model.parameters():
        parameter.requires_grad_(workload.adapter is None)
    if workload.quantization != "none":
        _quantise(model, workload)
    if workload.kbit_upcast:
        _upcast(model)
    if workload.adapter is not None:
        model = _wrapped(model, workload.adapter)
    if workload.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def _base(workload: Workload) -> PreTrainedModel:
    from transformers import AutoConfig

    # How the base is stored by itself is in the workload's own words already.
    tree = numbers({name: value for name, value in workload.config.items() if name not in OWN_KEYS})
    kind = tree.pop("model_type", None)
    try:
        config = AutoConfig.for_model(kind, **tree)
    except ValueError:
        raise PlanError(
            f"model_type {kind!r} is not an architecture that the installed transformers knows; "
            "a newer transformers may, or the model needs code of its own, which a plan does not run"
        ) from None
    if workload.depth:
        _cut(config, workload.depth)
    config.use_cache = False
    try:
        model = _built(config, workload)
    except ValueError as error:
        raise PlanError(
            f"{kind!r} cannot be built as a causal language model: {one_line(error, 300)}"
        ) from None
    model.tie_weights()
    name_backbone(model)
    return model


def _built(config: PretrainedConfig, workload: Workload) -> PreTrainedModel:
    """Build with the planned kernels; eager where a model has nothing else, its own sdpa where it knows no other."""
    made = auto_class(config)
    attention = workload.attention
    model_class = made._model_mapping.get(type(config), None)
    # Training falls back where the architecture has no sdpa, for which these kernels stand.
    if attention in ("flash", "efficient") and not getattr(model_class, "_supports_sdpa", True):
        attention = "eager"
    if attention != "eager":
        attention = ATTENTION["masked" if workload.masked else attention]
    dtype = getattr(torch, workload.dtype)
    with torch.device("meta"):
        try:
            return made.from_config(config, dtype=dtype, attn_implementation=attention)
        except KeyError:  # classes that look attention up in a table of their own
            return made.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _cut(config: PretrainedConfig, layers: int) -> None:
    """Keep the first `layers` layers of a configuration."""
    text = config.get_text_config()
    full = text.num_hidden_layers
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None) and layers < full:
        text.layer_types = text.layer_types[:layers]


def _wrapped(model: PreTrainedModel, adapter: Adapter) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    try:
        chosen = choose(model, adapter.targets, Wanted(adapter.dropout, adapter.dora))
    except TargetError as error:
        raise PlanError(str(error)) from None
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=2 * adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=chosen.targets,
        exclude_modules=chosen.excluded,
        use_dora=adapter.dora,
        task_type="CAUSAL_LM",
    )
    if adapter.dora:
        _read_packed_weights()
    try:
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=adapter.dtype == "float32")
    except ValueError as error:
        raise PlanError(f"the adapter does not fit the model: {error}") from None
    dtype = getattr(torch, adapter.dtype)
    for module in wrapped.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and parameter.dtype != dtype:
                module._parameters[name] = torch.nn.Parameter(parameter.detach().to(dtype))
    return wrapped


def _read_packed_weights() -> None:
    """Let DoRA dequantise the 4-bit weights of a plan, which PEFT does not know for what they are (`_nf4_weight`)."""
    from peft.tuners.lora import dora
    from peft.utils.integrations import dequantize_module_weight

    def dequantised(module: torch.nn.Module) -> Tensor:
        weight: Any = module.weight
        state: Any = getattr(
            module, "quant_state", None
        )  # PEFT copies the module, and the weight's own is lost
        if state is not None and type(weight).__name__ != "Params4bit":
            return torch.empty(state.shape, dtype=state.dtype, device=weight.device)
        whole: Tensor = dequantize_module_weight(module)
        return whole

    setattr(dora, "dequantize_module_weight", dequantised)  # noqa: B010 (not exported there)


def _upcast(model: PreTrainedModel) -> None:
    """Do what `peft.prepare_model_for_kbit_training` does: every 16-bit parameter becomes float32."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype in (torch.float16, torch.bfloat16):
                module._parameters[name] = torch.nn.Parameter(parameter.detach().float(), requires_grad=False)
    model.tie_weights()


def _quantise(model: PreTrainedModel, workload: Workload) -> None:
    """Replace every linear layer but the head by its bitsandbytes counterpart."""
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or name.rpartition(".")[2] in HEAD:
            continue
        if workload.quantization == "nf4":
            new = bnb.nn.Linear4bit(
                8, 8, bias=False, compute_dtype=getattr(torch, workload.dtype), quant_type="nf4"
            )
            new.in_features, new.out_features, new.bias = module.in_features, module.out_features, module.bias
            _nf4_weight(
                new, tuple(module.weight.shape), workload.double_quant, getattr(torch, workload.dtype), "meta"
            )
        else:
            new = bnb.nn.Linear8bitLt(8, 8, bias=False, has_fp16_weights=False, threshold=0.0)
            new.in_features, new.out_features, new.bias = module.in_features, module.out_features, module.bias
            _int8_weight(new, tuple(module.weight.shape), "meta")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
    setattr(model, "is_loaded_in_4bit" if workload.quantization == "nf4" else "is_loaded_in_8bit", True)


def _nf4_weight(
    module: Linear4bit, shape: tuple[int, ...], double: bool, dtype: torch.dtype, device: str
) -> None:
    """Give a Linear4bit its packed weight: two values a byte, a scale for 64 values.

    A plain parameter carries the quant state, because Params4bit cannot wrap a fake tensor.
    """
    from bitsandbytes.functional import QuantState

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    values = shape[0] * shape[1]
    blocks = values // 64
    second = None
    if double:
        second = QuantState(
            absmax=empty(-(-blocks // 256)), code=empty(256), blocksize=256, dtype=torch.float32
        )
    state = QuantState(
        absmax=empty(blocks, dtype=torch.uint8 if double else torch.float32),
        shape=torch.Size(shape),
        code=empty(16),
        blocksize=64,
        quant_type="nf4",
        dtype=dtype,
        offset=empty() if double else None,
        state2=second,
    )
    weight = torch.nn.Parameter(empty((values + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    for name, value in (
        ("quant_state", state),
        ("bnb_quantized", True),
        ("quant_type", "nf4"),
        ("compress_statistics", double),
        ("blocksize", 64),
        ("quant_storage", torch.uint8),
    ):
        setattr(weight, name, value)
    module.weight, module.quant_state = weight, state


def _int8_weight(module: Linear8bitLt, shape: tuple[int, ...], device: str) -> None:
    """Give a Linear8bitLt its int8 weight and the float32 scale of each row."""
    weight = torch.nn.Parameter(torch.empty(shape, dtype=torch.int8, device=device), requires_grad=False)
    for name in ("CB", "SCB"):
        setattr(weight, name, None)
    module.weight = weight
    module.state.CB = weight.data
    module.state.SCB = torch.empty(shape[0], dtype=torch.float32, device=device)


def materialise(model: PreTrainedModel) -> None:
    """Replace every meta tensor of the model by an uninitialised one on the CPU (a fake one under
    FakeTensorMode).
    """
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.device.type != "meta":
                continue
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                _nf4_weight(module, tuple(state.shape), state.state2 is not None, state.dtype, "cpu")
            elif (
                hasattr(module, "state")
                and getattr(module.state, "CB", None) is not None
                and name == "weight"
            ):
                _int8_weight(module, tuple(parameter.shape), "cpu")
            else:
                if id(parameter) not in made:
                    made[id(parameter)] = _like(parameter)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")


def _like(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    data = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
    return torch.nn.Parameter(data, requires_grad=parameter.requires_grad)


def residents(model: PreTrainedModel) -> Iterator[Resident]:
    """Yield what the model keeps on the card between steps, each storage once."""
    seen: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        part = "adapter" if "lora_" in name or tensor.requires_grad else "frozen weights"
        for held in (tensor, *_quant_tensors(model, name, tensor)):
            if held.untyped_storage()._cdata not in seen:
                seen.add(held.untyped_storage()._cdata)
                yield Resident(name, held, part)


def _quant_tensors(model: PreTrainedModel, name: str, tensor: Tensor) -> Iterator[Tensor]:
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        second = state.state2
        candidates = (
            state.absmax,
            state.code,
            state.offset,
            *((second.absmax, second.code) if second else ()),
        )
        yield from (held for held in candidates if held is not None)
    elif tensor.dtype is torch.int8:
        yield model.get_submodule(name.rpartition(".")[0]).state.SCB


def repeated_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the decoder layers: the longest list of modules of one class in the language model."""
    best: list[torch.nn.Module] = []
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for module in base.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > len(best):
            children = list(module)
            if len({type(child) for child in children}) == 1:
                best = children
    return best


def is_uniform(workload: Workload) -> bool:
    """Tell whether all layers of the configuration are of one kind, so that few of them speak for all.

    A tower beside the language model has layers of its own, which the names cannot be told from.
    """
    text = text_config(workload.config)
    kinds = text.get("layer_types") or text.get("layers_block_type")
    towers = any(workload.config.get(name) for name in SENSES)
    return layer_count(workload.config) > 0 and (not kinds or len(set(kinds)) == 1) and not towers


def layer_of(name: str) -> int | None:
    """Return the layer that a parameter's name places it in, None outside the layers.

    >>> layer_of("model.layers.11.self_attn.q_proj.weight"), layer_of("lm_head.weight")
    (11, None)
    """
    found = _LAYER.search(name)
    return int(found[1]) if found else None
