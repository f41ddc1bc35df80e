"""Count tokens of training rows with the model's own tokenizer file, without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_finetune.data.formatting import Message, Pair


class TokenCount(NamedTuple):
    """One row in tokens: whole length, tokens of the prompt, and whether the stop token ends the answer."""

    length: int
    prompt: int
    eos: bool

    def supervised(self, max_length: int) -> int:
        """Return how many tokens of the answer are left when the row is cut at `max_length`."""
        return max(0, min(self.length, max_length) - self.prompt)


@dataclass(frozen=True, slots=True)
class Tokenization:
    """How training rows become tokens: `count` takes a row's pair; rows are cut at `max_length`."""

    count: Callable[[Sequence[Pair]], Sequence[TokenCount]]
    pair: Callable[[Any], Pair]
    max_length: int


class TokenTable(NamedTuple):
    """Lengths of a split in tokens; `supervised` is the smallest number that a row has."""

    p50: int
    p95: int
    max: int
    truncated: int
    supervised: int


def table(counts: Sequence[TokenCount], max_length: int) -> TokenTable:
    """Summarise counts; percentiles are values that occur (nearest rank)."""
    lengths = sorted(count.length for count in counts)
    if not lengths:
        return TokenTable(0, 0, 0, 0, 0)
    return TokenTable(
        nearest_rank(lengths, 50),
        nearest_rank(lengths, 95),
        lengths[-1],
        sum(length > max_length for length in lengths),
        min(count.supervised(max_length) for count in counts),
    )


def nearest_rank(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest-rank percentile of a sorted, non-empty sequence.

    >>> nearest_rank([1, 2, 3, 4], 50), nearest_rank([1, 2, 3, 4], 95)
    (2, 4)
    """
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def counter(folder: Path) -> Callable[[Sequence[Pair]], list[TokenCount]]:
    """Return a function that counts pairs with the tokenizer in a model folder.

    Text pairs get the stop token after the answer, as training adds it; message pairs are rendered with the folder's
    chat template, which has to bring its own. FileNotFoundError when the folder has no ``tokenizer.json``.
    """
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(_existing(folder / "tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(folder / "tokenizer_config.json")
    eos = token_text(config.get("eos_token"))
    render = _renderer(folder, config)

    def lengths(texts: Iterable[str], *, special: bool) -> Iterator[int]:
        for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=special):
            yield len(encoding.ids)

    def count(pairs: Sequence[Pair]) -> list[TokenCount]:
        if pairs and not isinstance(pairs[0].prompt, str):
            return [
                _chat_count(pair, render, eos, lambda text: next(lengths([text], special=False)))
                for pair in pairs
            ]
        prompts = lengths((str(pair.prompt) for pair in pairs), special=True)
        wholes = lengths((f"{pair.prompt}{pair.completion}{eos or ''}" for pair in pairs), special=True)
        return [
            TokenCount(whole, prompt, eos is not None) for whole, prompt in zip(wholes, prompts, strict=True)
        ]

    return count


def token_text(token: Any) -> str | None:
    """Return a special token's text from ``tokenizer_config.json`` (a text, or an object with `content`)."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _chat_count(
    pair: Pair, render: Callable[[list[Message], bool], str], eos: str | None, length: Callable[[str], int]
) -> TokenCount:
    assert isinstance(pair.prompt, list)
    assert isinstance(pair.completion, list)
    prompt = render(pair.prompt, True)
    whole = render([*pair.prompt, *pair.completion], False)
    answer = whole.rpartition(pair.completion[-1]["content"])[2]
    return TokenCount(length(whole), length(prompt), eos is not None and eos in answer)


def _renderer(folder: Path, config: Mapping[str, Any]) -> Callable[[list[Message], bool], str]:
    from pytest_finetune.data.chat_template import renderer

    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    special = {
        key: text
        for key in ("bos_token", "eos_token", "pad_token", "unk_token")
        if (text := token_text(config.get(key)))
    }
    return renderer(template if isinstance(template, str) else None, special)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the folder holds no fast tokenizer")
    return path


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}
