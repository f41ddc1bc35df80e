"""How a tokenizer splits a text before its merges, by the name that llama.cpp has for that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_BY_PATTERN: Final = {
    _GPT2: "gpt-2",
    rf"{_HEAD}\p{{N}}{{1,3}}{_TAIL}": "llama-bpe",
    rf"{_HEAD}\p{{N}}{_TAIL}": "qwen2",
}


def splitting_of(folder: Path) -> str | None:
    """Return the name of the way in which a folder's tokenizer splits; None for one that is not plainly known."""
    try:
        read = json.loads((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError):
        return None
    # A normaliser changes the text before it is split, and llama.cpp's names stand for the splitting alone.
    if read.get("normalizer") is not None or read.get("model", {}).get("type") != "BPE":
        return None
    return _name(read.get("pre_tokenizer") or {})


def _name(given: Mapping[str, Any]) -> str | None:
    steps = given.get("pretokenizers", []) if given.get("type") == "Sequence" else [given]
    kinds = [step.get("type") for step in steps]
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt-2" if last.get("use_regex", True) else None
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        split = steps[0]
        whole = split.get("behavior") == "Isolated" and not split.get("invert")
        return _BY_PATTERN.get(split.get("pattern", {}).get("Regex", "")) if whole else None
    return None
