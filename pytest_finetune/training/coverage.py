"""What really carries an adapter once PEFT is done, held against what was named; and what no gradient ever reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pytest_finetune.memory.tracer.targets import ALL_LINEAR, Chosen, experts, is_linear, kinds, matching
from pytest_finetune.training.request import TrainingError
from pytest_finetune.wording import counted, listed, percent

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

STEPS: Final = 3
"""So many backward passes are looked at: one alone may leave out an expert that got no token."""


def covered(model: PeftModel, requested: str | tuple[str, ...], chosen: Chosen) -> list[str]:
    """Say which modules that were asked for carry no adapter; TrainingError for a name that has none anywhere.

    PEFT takes some names for the experts' parameters and forgets the modules of that name elsewhere
    (huggingface/peft#3711).
    """
    adapted, parameters = set(_adapted_modules(model)), set(_adapted_parameters(model))
    base = model.get_base_model()
    linear = {_bare(name) for name, module in _own_modules(base) if is_linear(module)}
    excluded = set(matching(chosen.excluded, linear, expression=True)) if chosen.excluded else set()
    head = base.get_output_embeddings()
    linear -= {*excluded, *(name for name, module in base.named_modules() if module is head)}
    if requested == ALL_LINEAR:
        named = linear
    else:
        named = set()
        for word in (requested,) if isinstance(requested, str) else requested:
            found = set(matching(word, {*linear, *adapted}, expression=isinstance(requested, str)))
            if not found & adapted and not parameters:
                raise TrainingError(_nowhere(word, found))
            named |= found
    return [*_bare_modules(sorted(named - adapted), parameters), *_bare_experts(base, requested, parameters)]


def _adapted_modules(model: PeftModel) -> Iterator[str]:
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and not hasattr(module, "parameter_name"):
            yield _bare(name)


def _adapted_parameters(model: PeftModel) -> Iterator[str]:
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "parameter_name"):
            yield f"{_bare(name)}.{module.parameter_name}"


def _own_modules(base: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the base's own modules, without those that PEFT has added."""
    return ((name, module) for name, module in base.named_modules() if "lora_" not in name)


def _bare(name: str) -> str:
    """Return a name as the untouched base has it."""
    return name.replace(".base_layer", "")


def _nowhere(word: str, found: Iterable[str]) -> str:
    there = listed(kinds(sorted(found)))
    return (
        f"lora.target_modules names {word!r}, and no module got an adapter by it"
        + (f", although the base has {there}" if there else "")
        + "\n  name modules by more of their path, or leave it out"
    )


def _bare_modules(names: list[str], parameters: Iterable[str]) -> Iterator[str]:
    if names:
        taken = sorted({name.rpartition(".")[2] for name in parameters if "experts" in name.split(".")})
        why = f": PEFT takes these names for the experts' {listed(taken)}" if taken else ""
        yield (
            f"no adapter on {listed(kinds(names))} ({counted(len(names), 'module')}), although "
            f"lora.target_modules asks for them{why}"
        )


def _bare_experts(
    base: torch.nn.Module, requested: str | tuple[str, ...], parameters: set[str]
) -> Iterator[str]:
    """Name experts without an adapter where everything linear was asked for."""
    sizes = {_bare(name): parameter.numel() for name, parameter in base.named_parameters()}
    bare = [name for name in map(_bare, experts(base)) if name not in parameters]
    if bare and requested == ALL_LINEAR:
        share = sum(sizes[name] for name in bare) / sum(sizes.values())
        yield (
            f"no adapter on the experts' weights {listed(kinds(bare))} ({percent(share)} of the parameters): "
            "they are parameters that hold all experts of a layer, not linear modules"
        )


class Reached:
    """Keeps which trained parameters no gradient has reached in the first backward passes."""

    def __init__(self) -> None:
        self._unreached: set[str] | None = None
        self._left = STEPS

    def look(self, model: torch.nn.Module) -> None:
        """Look at the gradients after a backward pass; after the first few this costs nothing."""
        if self._left == 0:
            return
        self._left -= 1
        without = {
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        }
        self._unreached = without if self._unreached is None else self._unreached & without

    def notes(self) -> list[str]:
        """Name the modules that were never reached."""
        names = sorted({_module_of(name) for name in self._unreached or ()})
        if not names:
            return []
        return [
            f"no gradient reached {listed(kinds(names))} ({counted(len(names), 'module')}): the loss does not "
            "depend on them, so they stay as they were"
        ]


def _module_of(parameter: str) -> str:
    bare = _bare(parameter.removeprefix("base_model.model."))
    return bare.partition(".lora_")[0] if ".lora_" in bare else bare.rpartition(".")[0]
