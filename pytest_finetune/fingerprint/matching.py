"""Hold the tensors of a base's files against the model that its configuration describes.

transformers fills what is missing with random numbers and leaves out what it has no place for; both are said here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune.fingerprint.folder import wrapped
from pytest_finetune.wording import counted

# Buffers of older versions, which are computed now.
COMPUTED: Final = re.compile(r"(inv_freq|position_ids|(attn|attention)\.(masked_)?bias|(cos|sin)_cached)$")
_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Match:
    """What transformers reports of a loading: names of tensors, and the modules of the model that was loaded.

    `tensors` counts those of the model; `mismatched` has the shape in the file and the one in the model.
    """

    tensors: int
    modules: Collection[str]
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]] = ()
    further_layers: int = 0

    @property
    def trouble(self) -> str | None:
        """What makes the loaded model another one than the files hold, and what to do; None when nothing does."""
        unused = self._unused()
        if self.missing or unused:
            saved = wrapped(self.unexpected)
            if saved is not None:
                return saved
        of = counted(self.tensors, "tensor")
        found = []
        if self.mismatched:
            name, file, model = min(self.mismatched)
            found.append(
                f"{len(self.mismatched)} of {of} have another shape in the files than in the model of its config.json "
                f"({name}: {list(file)} and {list(model)})"
            )
        if self.missing:
            found.append(
                f"{len(self.missing)} of {of} are not in the files ({_named(self.missing)}), and transformers would "
                f"fill them with random numbers{self._instead()}"
            )
        if unused:
            found.append(
                f"the model of its config.json has no place for {counted(len(unused), 'tensor')} of the files "
                f"({_named(unused)}), which would be left out"
            )
        if not found:
            return None
        alone = bool(self.missing) and not (self.mismatched or self._left())
        remedy = (
            "download it again, or save the whole model again"
            if alone
            else "take config.json and weights of the same model"
        )
        return f"{'; '.join(found)}: {remedy}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out without harm, for the reader of the record."""
        unused = set(self._unused())
        left = [name for name in self._left() if name not in unused]
        if not left:
            return ()
        tops = sorted({".".join(name.split(".")[:2]) for name in left})
        return (
            f"left out, as no part of the base's language model: {counted(len(left), 'tensor')} of its files "
            f"({_named(tops)})",
        )

    def _left(self) -> list[str]:
        """Return what is left out and was not meant to be computed."""
        return sorted(name for name in self.unexpected if not COMPUTED.search(name))

    def _instead(self) -> str:
        """Name what the files hold in the place of what is missing: a head for another task."""
        beside = [name for name in self._left() if not self._inside(name)]
        return f" (the files hold {_named(beside)} instead)" if beside else ""

    def _unused(self) -> list[str]:
        """Return the tensors that the model should have used: they lie inside a part that it has."""
        return [name for name in self._left() if self._inside(name)]

    def _inside(self, name: str) -> bool:
        layer = _LAYER.search(name)
        if layer and self.further_layers:  # heads that predict further tokens lie behind the last layer
            layers = {int(found[1]) for found in map(_LAYER.search, (f"{m}." for m in self.modules)) if found}
            if int(layer[1]) > max(layers, default=0):
                return False
        return any(parent in self.modules and not _is_root(parent) for parent in _parents(name))


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _is_root(module: str) -> bool:
    """Tell whether a module is the whole of a model, beside which others may lie (a vision tower, other heads)."""
    return module in (
        "model",
        "transformer",
        "backbone",
        "base_model",
        "model.language_model",
        "language_model",
    )


def _named(names: Sequence[str], shown: int = 3) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(ordered[:shown]) + more
