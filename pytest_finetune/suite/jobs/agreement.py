"""Whether what was made elsewhere is what was asked for: the same key but for the card, or for versions if allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint import Key
from pytest_finetune.memory.hardware.cards import card_of

if TYPE_CHECKING:
    from pytest_finetune.yamlfile import Json

_DEVICE: Final = ("device_class", "environment.device")
_DTYPE: Final = ("dtype", "environment.dtype")
_SHOWN: Final = 5

Differing = Mapping[str, tuple[object, object]]


def disagreement(asked: Key, made: Json, total_bytes: int, *, reuse: str) -> Differing:
    """Map each field in which what was made is not what was asked for to `(asked, made)`; empty where it is.

    The card is asked for by its name in our table, or as any card; it is known by its driver's name, and by the bytes
    that it has. With `reuse` semantic, packages and device may be others, as for a stored adapter.
    """
    differs = {name: (ours, theirs) for name, (theirs, ours) in asked.differs_from(made).items()}
    same_kind = all(
        is_asked_for(str(ours), str(theirs), total_bytes)
        for name, (ours, theirs) in differs.items()
        if name in _DEVICE
    )
    return {
        name: pair
        for name, pair in differs.items()
        if not _may_differ(name, same_kind=same_kind, semantic=reuse == "semantic")
    }


def worded(differing: Differing) -> str:
    """Say what differs, on one line."""
    said = [f"{name}: asked for {ours}, found {theirs}" for name, (ours, theirs) in differing.items()]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def as_made(asked: Key, made: Json) -> Key:
    """Return the key of what was made where it differs from what was asked for in the card alone."""
    return Key.of(made) if asked.differs_from(made).keys() <= {*_DEVICE, *_DTYPE} else asked


def _may_differ(name: str, *, same_kind: bool, semantic: bool) -> bool:
    if name in _DEVICE or name in _DTYPE:
        return same_kind or semantic
    return semantic and name.startswith("environment.")


def is_asked_for(asked: str, found: str, total_bytes: int) -> bool:
    """Tell whether a device is what was asked for: itself, any card, or a card by its name in the table.

    >>> is_asked_for("cuda:h100", "cuda:NVIDIA H100 80GB HBM3", 80 * 2**30), is_asked_for("cpu", "cuda:NVIDIA L4", 0)
    (True, False)
    """
    kind, _, name = asked.partition(":")
    found_kind, _, found_name = found.partition(":")
    if asked == found or (asked == "cuda" and found_kind == "cuda"):
        return True
    if kind != found_kind or kind != "cuda":
        return False
    card = card_of(found_name, total_bytes)
    return card is not None and card.key == name
