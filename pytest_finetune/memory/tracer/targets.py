"""Which modules of a model an adapter can be put on, and what is left out: for the plan and the training alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from pytest_finetune.errors import FinetuneError
from pytest_finetune.wording import counted, listed, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR: Final = "all-linear"
SENSES: Final = ("vision_config", "audio_config")
"""Where the configuration of a model that also sees or hears describes those parts."""
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
# PEFT refuses these in some of the models (peft.tuners.tuners_utils); the fast kernels of all take the bare weight.
_READ_BY_MIXER: Final = ("out_proj", "conv1d")
_MIXERS: Final = frozenset(
    {"bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "mamba", "mamba2", "nemotron_h", "zamba2"}
)

STARTS: Final = ("pissa", "olora")
"""First weights that are taken out of the base's."""

_TOWER: Final = "no part of the language model, and rows of text never reach it"
_UNFIT: Final = "PEFT puts adapters on linear modules, embeddings and convolutions"
_ROUTER: Final = "it returns more than its product, as a router does, so an adapter's share cannot be added"
_MIXER: Final = "the state-space layer reads its weight itself, past any adapter"


class TargetError(FinetuneError, ValueError):
    """What was asked for cannot be adapted; the message names it and what can be."""


class Chosen(NamedTuple):
    """What PEFT is asked for; `excluded` is its expression for what is left out, None for nothing.

    `left_out` says what that is, a sentence for each reason.
    """

    targets: str | list[str]
    excluded: str | None
    left_out: tuple[str, ...]


class Wanted(NamedTuple):
    """What an adapter is to be besides its targets: not every module can carry each."""

    dropout: float = 0.0
    dora: bool = False
    start: str = "True"
    rank: int = 0


def choose(model: PreTrainedModel, requested: str | tuple[str, ...], wanted: Wanted) -> Chosen:
    """Return what to ask PEFT for on a loaded model (meta tensors will do); TargetError names what cannot be had.

    A list holds module names or their last parts, a string is a regular expression over whole names, ``all-linear``
    is every linear module but the output head.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    reasons = dict(_reasons(model, modules))
    if requested == ALL_LINEAR:
        asked = [name for name, module in modules.items() if is_linear(module)]
    else:
        asked = _asked(model, requested, modules, reasons)
    out = {name: reasons[name] for name in asked if name in reasons}
    targets = requested if isinstance(requested, str) else list(requested)
    _check_experts(model, targets, wanted)
    _check_start({name: modules[name] for name in asked if name not in out}, wanted)
    return Chosen(
        targets=targets,
        excluded="|".join(_pattern(kind) for kind in kinds(out)) or None,
        left_out=tuple(_left_out(out)),
    )


def is_linear(module: torch.nn.Module) -> bool:
    """Tell whether PEFT takes a module for a linear one; quantised ones are, and so is GPT-2's Conv1D."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def linear_names(model: PreTrainedModel) -> list[str]:
    """Return the last parts of the names of the linear modules that can be adapted, the output head left out."""
    modules = dict(model.named_modules())
    reasons = dict(_reasons(model, modules))
    head = output_head(model)
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in modules.items()
            if is_linear(module) and name != head and name not in reasons
        }
    )


def output_head(model: PreTrainedModel) -> str | None:
    """Return the name of the output head."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    return next((name for name, module in model.named_modules() if module is head), None)


def kinds(names: Iterable[str]) -> list[str]:
    """Return names without the numbers of their layers and experts, each once, in their order.

    >>> kinds(["layers.0.mlp.up_proj", "layers.1.mlp.up_proj", "head"])
    ['layers.*.mlp.up_proj', 'head']
    """
    return list(dict.fromkeys(_NUMBER.sub("*", name) for name in names))


def _pattern(kind: str) -> str:
    return re.escape(kind).replace(r"\*", r"\d+")


def _asked(
    model: PreTrainedModel,
    requested: str | tuple[str, ...],
    modules: Mapping[str, torch.nn.Module],
    reasons: Mapping[str, str],
) -> list[str]:
    """Return the modules that the words match; TargetError for a word that matches none, or none that can be had."""
    wanted = (requested,) if isinstance(requested, str) else requested
    found = {word: list(matching(word, modules, expression=isinstance(requested, str))) for word in wanted}
    lacking = [word for word in wanted if not found[word] and not has_expert(model, word)]
    if lacking:
        raise TargetError(_no_module(lacking, linear_names(model)))
    head = output_head(model)
    if head is not None and any(head in names for names in found.values()):
        raise TargetError(
            f"lora.target_modules asks for {head!r}, the output head: the loss is computed from the "
            "head's own weight, so an adapter on it would never be trained\n"
            f"  leave it out; linear modules here: {', '.join(linear_names(model))}"
        )
    for word, names in found.items():
        if names and all(name in reasons for name in names):
            raise TargetError(
                f"lora.target_modules asks for {word!r}, which cannot carry an adapter in this model "
                f"({', '.join(kinds(names))}): {reasons[names[0]]}\n"
                f"  leave it out; linear modules here: {', '.join(linear_names(model))} (or all-linear)"
            )
    return [name for names in found.values() for name in names]


def matching(word: str, names: Iterable[str], *, expression: bool) -> Iterator[str]:
    """Yield the names that PEFT would match: by an expression over the whole name, or by the last parts."""
    for name in names:
        if re.fullmatch(word, name) if expression else name == word or name.endswith(f".{word}"):
            yield name


def _reasons(model: PreTrainedModel, modules: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, str]]:
    """Yield each module that an adapter has no business on, and why."""
    towers = tuple(f"{tower}." for tower in _towers(model))
    mixers = str(getattr(model.config, "model_type", "")) in _MIXERS
    for name, module in modules.items():
        if towers and name.startswith(towers):
            yield name, _TOWER
        elif mixers and name.rpartition(".")[2] in _READ_BY_MIXER:
            yield name, _MIXER
        elif isinstance(module, torch.nn.Linear) and _returns_more(module):
            yield name, _ROUTER
        elif not _fits(module):
            yield name, _UNFIT


def _fits(module: torch.nn.Module) -> bool:
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return is_linear(module) or isinstance(
        module, (torch.nn.Embedding, torch.nn.MultiheadAttention, *convolutions)
    )


def _returns_more(module: torch.nn.Linear) -> bool:
    """Tell whether a linear module is a router with a forward pass of its own; other kinds give their product alone."""
    kind = type(module)
    return "Router" in kind.__name__ and "forward" in vars(kind)


def _towers(model: PreTrainedModel) -> list[str]:
    """Return the names of the parts that read images or sound; a model of text alone has none."""
    config = model.config
    if config.get_text_config() is config and not _other_senses(config):
        return []
    decoder = model.get_decoder()
    named = dict(model.named_modules())
    inside = next((name for name, module in named.items() if module is decoder), "")
    head = output_head(model)
    parts: list[str] = []
    for name in named:
        within = name == inside or name.startswith(f"{inside}.") or inside.startswith(f"{name}.")
        if name and name != head and not within and not any(name.startswith(f"{part}.") for part in parts):
            parts.append(name)
    # Phi-4 keeps its towers within the decoder, beside the embeddings.
    parts += [
        f"{inside}.{name}" for name, child in decoder.named_children() if _holds_other_senses(child, config)
    ]
    return parts


def _other_senses(config: object) -> list[object]:
    found = (getattr(config, name, None) for name in SENSES)
    return [one for one in found if one is not None]


def _holds_other_senses(module: torch.nn.Module, config: object) -> bool:
    senses = [type(sense) for sense in _other_senses(config)]
    return any(type(getattr(part, "config", None)) in senses for part in module.modules())


def _check_experts(model: PreTrainedModel, targets: str | list[str], wanted: Wanted) -> None:
    """Raise TargetError where PEFT would adapt the experts' parameters, which can carry plain LoRA alone."""
    translated = _translated(model, targets)
    asked = [
        *([f"lora.dropout {wanted.dropout:g}"] if wanted.dropout else []),
        *(["peft_method: dora"] if wanted.dora else []),
        *([f"lora.init_lora_weights: {wanted.start}"] if wanted.start.partition("_")[0] in STARTS else []),
    ]
    if translated and asked:
        raise TargetError(
            f"{' and '.join(asked)} cannot go with this model's experts: their weights are parameters "
            f"({', '.join(translated)}), and an adapter on a parameter is plain LoRA without dropout\n"
            "  leave that out (lora.dropout: 0), or name modules outside the experts in lora.target_modules: "
            f"{', '.join(linear_names(model))}"
        )


def _translated(model: PreTrainedModel, targets: str | list[str]) -> list[str]:
    """Return the parameters that PEFT takes the targets for: in transformers 5 experts are no modules any more."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=targets, task_type="CAUSAL_LM")
    try:
        convert_peft_config_for_transformers(config, model, conversions=None)
    except ValueError as error:
        raise TargetError(f"lora.target_modules: {error}") from None
    return sorted(config.target_parameters or ())


def _check_start(modules: Mapping[str, torch.nn.Module], wanted: Wanted) -> None:
    """Raise TargetError for a module whose weight cannot give the adapter its first values."""
    start, kind = wanted.start, wanted.start.partition("_")[0]
    if kind not in STARTS:
        return
    for name, module in modules.items():
        embedding = isinstance(module, torch.nn.Embedding)
        if embedding or (kind == "olora" and type(module).__name__ == "Conv1D"):
            what = "an embedding" if embedding else "a transposed linear module (Conv1D)"
            raise TargetError(
                f"lora.init_lora_weights: {start} takes the adapter's first weights out of linear modules, and "
                f"lora.target_modules asks for {name!r}, {what}\n"
                f"  {'leave it out' if embedding else 'take pissa'}, or lora.init_lora_weights: true"
            )
        if isinstance(module, torch.nn.Linear) and (least := _narrow(module)) < wanted.rank:
            raise TargetError(
                f"lora.init_lora_weights: {start} takes lora.r = {wanted.rank} directions out of each weight, and "
                f"{name} has {least}: such an adapter could not be loaded again\n"
                f"  lower lora.r to {least}, name the others in lora.target_modules, or lora.init_lora_weights: true"
            )


def _narrow(module: torch.nn.Linear) -> int:
    return min(module.in_features, module.out_features)


def _left_out(out: Mapping[str, str]) -> Iterator[str]:
    """Say what is left out, a sentence for each reason."""
    for reason in dict.fromkeys(out.values()):
        names = [name for name, why in out.items() if why == reason]
        yield f"no adapter on {listed(kinds(names))} ({counted(len(names), 'module')}): {reason}"


def experts(model: PreTrainedModel) -> list[str]:
    """Return the parameters that hold the weights of all experts of a layer at once: no modules, so no linear ones."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and "experts" in name.split(".")
    ]


def has_expert(model: PreTrainedModel, word: str) -> bool:
    """Tell whether a word may be an older name of such a parameter, which PEFT translates."""
    last = word.rpartition(".")[2]
    return bool(experts(model)) and last in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")


def _no_module(unmatched: Iterable[str], linear: Sequence[str]) -> str:
    lines = []
    for word in unmatched:
        guess = nearest(word, linear)
        lines.append(f"  {word!r}" + (f": did you mean {guess!r}?" if guess else ""))
    return (
        "lora.target_modules asks for modules that the base model does not have: nothing would be trained\n"
        + "\n".join(lines)
        + f"\n  linear modules of this model: {', '.join(linear)} (or all-linear)"
    )
