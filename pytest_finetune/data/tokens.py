"""Count tokens of training rows with the model's own tokenizer and template, without torch or transformers.

The rows are tokenised as training does it: the prompt as it will be asked, and prompt, answer and stop token
as one text. Only ``tokenizer.json`` (a fast tokenizer) can be read this way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.data.chat import folder_chat, token_text
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.formatting import Pair, Turns, format_pair
from pytest_finetune.data.rows import Row
from pytest_finetune.data.turns import Spans, supervised, tokens_of
from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint import BaseModelError, base_folder
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from pytest_finetune.data.chat import Chat
    from pytest_finetune.experiment import Experiment, Prompt


class NoTokenizer(FinetuneError, ValueError):
    """The folder holds no tokenizer that can be read without transformers."""


class TokenCount(NamedTuple):
    """One row in tokens.

    `prompt` counts the first tokens that the row shares with its prompt asked alone; `kept` says that these
    are all of the prompt's tokens, `stops` that a stop token follows in the answer, `moved` that the chat template
    alone would have ended the prompt otherwise; `highest` is the largest token id; only the tokens in `taught` carry
    loss, None is the whole answer.
    """

    length: int
    prompt: int
    kept: bool
    stops: bool
    moved: bool = False
    highest: int = 0
    taught: Spans | None = None

    def supervised(self, max_length: int) -> int:
        """Return how many tokens of the answer are left when the row is cut at `max_length`."""
        taught = ((self.prompt, self.length),) if self.taught is None else self.taught
        return sum(max(0, min(end, max_length) - start) for start, end in taught)


class Limits(NamedTuple):
    """What a base can take, by its configuration, and the tokens that are generated; None for what it does not say.

    `vocabulary` counts the tokenizer's ids, `embeddings` the model's.
    """

    positions: int | None = None
    embeddings: int | None = None
    vocabulary: int = 0
    new_tokens: int = 0

    @property
    def room(self) -> int | None:
        """Return how many tokens a prompt may have."""
        return None if self.positions is None else self.positions - self.new_tokens

    @property
    def short_of_embeddings(self) -> bool:
        """Tell whether the tokenizer has ids for which the model has no embedding; rows may never use them."""
        return self.embeddings is not None and self.vocabulary > self.embeddings


@dataclass(frozen=True, slots=True)
class Tokenization:
    """How rows become tokens: `count` takes formatted pairs; rows are cut at `max_length`.

    `turns` says which answers of a conversation are taught, `chat` is the base's chat template.
    """

    count: Callable[[Sequence[Pair]], list[TokenCount]]
    prompt: Prompt
    max_length: int
    limits: Limits = field(default_factory=Limits)
    turns: Turns = "last"
    chat: Chat | None = None

    def counts(self, rows: Iterable[Row]) -> list[TokenCount]:
        """Return one count for each row, in order."""
        return self.count([format_pair(row, self.prompt, self.turns) for row in rows])

    def table(self, rows: Iterable[Row]) -> dict[str, int]:
        """Return the record's ``data.<split>.tokens``."""
        return token_table(self.counts(rows), self.max_length)


def tokenization(
    folder: Path, prompt: Prompt, max_length: int, new_tokens: int = 0, turns: Turns = "last"
) -> Tokenization:
    """Return how a model folder tokenises rows; NoTokenizer when that needs transformers.

    Text pairs get the stop token after the answer, as training adds it; message pairs are rendered with the
    folder's chat template, which has to bring its own.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NoTokenizer(f"{file}: no such file")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception for a file that is no tokenizer
        raise NoTokenizer(f"{file}: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(folder / "tokenizer_config.json")
    eos = token_text(config.get("eos_token"))
    if eos is None:
        raise NoTokenizer(f"{folder / 'tokenizer_config.json'}: no eos_token")
    stops = _stop_ids(tokenizer, eos, _json(folder / "generation_config.json"))
    chat = folder_chat(folder, prompt.chat_template_kwargs)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def count(pairs: Sequence[Pair]) -> list[TokenCount]:
        if pairs and not isinstance(pairs[0].prompt, str):
            try:
                return [_counted_chat(chat, pair, encode, stops) for pair in pairs]
            except TemplateError as error:
                raise NoTokenizer(str(error)) from None
        flat = [text for pair in pairs for text in _plain_texts(pair, eos)]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(flat)]
        return [_counted(prompt, whole, stops) for prompt, whole in zip(ids[::2], ids[1::2], strict=True)]

    base = _json(folder / "config.json")
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    limits = Limits(
        _number(base, "max_position_embeddings", "n_positions"),
        _number(base, "vocab_size"),
        vocabulary,
        new_tokens,
    )
    return Tokenization(count, prompt, max_length, limits, turns, chat)


def tokenization_of(experiment: Experiment) -> Tokenization | None:
    """Return how rows become tokens; None when the base is not here, or only transformers can tokenise for it."""
    sample = Row("sample", 1, 0, "instruction", "Say", "this", "that", None, (), None, {})
    try:
        found = tokenization(
            base_folder(experiment),
            experiment.prompt,
            experiment.training.max_seq_length,
            experiment.generation.max_new_tokens,
            experiment.training.assistant_turns,
        )
        found.counts([sample])  # a chat template that needs more than messages shows it here
    except (BaseModelError, NoTokenizer):
        return None
    return found


def token_table(counts: Sequence[TokenCount], max_length: int) -> dict[str, int]:
    """Summarise counts: lengths, how many rows are cut, and all tokens that carry loss in one epoch.

    Percentiles are lengths that occur (nearest rank).
    """
    lengths = sorted(count.length for count in counts)
    return {
        "p50": nearest_rank(lengths, 50),
        "p95": nearest_rank(lengths, 95),
        "max": lengths[-1] if lengths else 0,
        "truncated": sum(length > max_length for length in lengths),
        "supervised": sum(count.supervised(max_length) for count in counts),
    }


def nearest_rank(ordered: Sequence[int], percent: int) -> int:
    """Return the nearest-rank percentile of a sorted sequence, 0 of an empty one.

    >>> nearest_rank([1, 2, 3, 4], 50), nearest_rank([1, 2, 3, 4], 95)
    (2, 4)
    """
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0


def _plain_texts(pair: Pair, eos: str) -> tuple[str, str]:
    end = "" if pair.completion[-len(eos) :] == eos else eos
    return str(pair.prompt), f"{pair.prompt}{pair.completion}{end}"


def _counted_chat(
    chat: Chat, pair: Pair, encode: Callable[[str], list[int]], stops: frozenset[int]
) -> TokenCount:
    found = tokens_of(chat, pair, encode)
    stopped = not stops.isdisjoint(supervised(found.ids, found.taught, len(found.ids)))
    return TokenCount(
        len(found.ids), found.start, True, stopped, found.moved, max(found.ids, default=0), found.taught
    )


def _counted(prompt: Sequence[int], whole: Sequence[int], stops: frozenset[int]) -> TokenCount:
    shared = 0
    for asked, taught in zip(prompt, whole, strict=False):
        if asked != taught:
            break
        shared += 1
    stopped = not stops.isdisjoint(whole[shared:])
    highest = max((*whole, *prompt), default=0)
    return TokenCount(len(whole), shared, shared == len(prompt), stopped, highest=highest)


def _stop_ids(tokenizer: Tokenizer, eos: str, generation: Json) -> frozenset[int]:
    listed = generation.get("eos_token_id", [])
    ids = [listed] if isinstance(listed, int) else list(listed or [])
    return frozenset(number for number in [tokenizer.token_to_id(eos), *ids] if number is not None)


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of the keys that holds a number; a model of several parts keeps those of its text apart."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _json(path: Path) -> Json:
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}
