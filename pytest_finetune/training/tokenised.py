"""Check what the model will really be taught: supervised tokens, the stop token, whole rows, the prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.turns import Spans, tokens_of
from pytest_finetune.training.chat import tokenizer_chat
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_finetune.data.chat import Chat
    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.yamlfile import Json

IGNORED: Final = -100
SHOWN: Final = 20


class TokenRow(NamedTuple):
    """One training row in tokens: its place, all of its ids, and where the completion begins.

    `prompt_kept` says that the row begins with the very tokens that the prompt has when it is asked alone. Of a
    conversation only the ids in `taught` carry loss; None is the whole completion.
    """

    place: str
    ids: tuple[int, ...]
    start: int
    prompt_kept: bool
    taught: Spans | None = None

    def supervised(self, max_length: int) -> tuple[int, ...]:
        """Return the ids that carry loss once the row is cut at `max_length`."""
        return tuple(label for label in self.labels(max_length) if label != IGNORED)

    def labels(self, max_length: int) -> list[int]:
        """Return the ids once the row is cut at `max_length`, those without loss replaced by IGNORED."""
        labels = [IGNORED] * min(len(self.ids), max_length)
        for start, end in ((self.start, len(self.ids)),) if self.taught is None else self.taught:
            labels[start:end] = self.ids[start : min(end, max_length)]
        return labels


@dataclass(frozen=True, slots=True)
class Stops:
    """The ids that end an answer, and how the tokenizer writes the one that is appended."""

    ids: frozenset[int]
    token: str


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    places: Sequence[str],
    arguments: Json = MappingProxyType({}),
) -> list[TokenRow]:
    """Return the rows as they are trained; `arguments` are those of the chat template.

    The tokenizer's stop token follows a completion that is text; a chat template writes its own.
    """
    if not pairs or isinstance(pairs[0].prompt, str):
        return [_text_row(tokenizer, pair, place) for pair, place in zip(pairs, places, strict=True)]
    if not tokenizer.chat_template:
        raise TrainingError(
            "prompt.template is 'chat', but the base model's tokenizer has no chat template\n"
            "  write a template with {instruction} and {input} instead, or take an instruct model"
        )
    chat = tokenizer_chat(tokenizer, arguments)
    return [_chat_row(tokenizer, chat, pair, place) for pair, place in zip(pairs, places, strict=True)]


def _text_row(tokenizer: PreTrainedTokenizerBase, pair: Pair, place: str) -> TokenRow:
    assert isinstance(pair.prompt, str)
    assert isinstance(pair.completion, str)
    end = "" if pair.completion.endswith(tokenizer.eos_token) else tokenizer.eos_token
    prompt = tokenizer(text=pair.prompt)["input_ids"]
    ids = tokenizer(text=pair.prompt + pair.completion + end)["input_ids"]
    start = _common_prefix(prompt, ids)
    return TokenRow(place, tuple(ids), start, start == len(prompt))


def _chat_row(tokenizer: PreTrainedTokenizerBase, chat: Chat, pair: Pair, place: str) -> TokenRow:
    try:
        found = tokens_of(
            chat, pair, lambda text: list(tokenizer(text=text, add_special_tokens=False)["input_ids"])
        )
    except TemplateError as error:
        raise TrainingError(f"{place}: {error}") from None
    return TokenRow(place, tuple(found.ids), found.start, True, found.taught)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))


def check_rows(rows: Sequence[TokenRow], max_length: int, max_truncated: int) -> None:
    """Raise TrainingError for rows that teach nothing, are cut, or teach another prompt than is asked."""
    _check_supervised(rows, max_length)
    _check_truncation(rows, max_length, max_truncated)
    changed = [row.place for row in rows if not row.prompt_kept]
    if changed:
        raise TrainingError(
            f"in {len(changed)} of {len(rows)} training rows the prompt's last tokens change when the answer "
            "follows: the model would be trained on another prompt than it is asked with\n"
            f"{listed(changed)}\n"
            "  end prompt.template (or the row's prompt) with neither a space nor half a word"
        )


def _check_supervised(rows: Sequence[TokenRow], max_length: int) -> None:
    bare = [row for row in rows if not row.supervised(max_length)]
    if not bare:
        return
    longest = max(len(row.ids) for row in bare)
    if longest <= max_length:
        why, remedy = "their completion has no token", "give each of them an answer"
    else:
        why = f"the prompt alone fills max_seq_length {max_length}"
        remedy = f"raise training.max_seq_length to {longest} (the longest of them), or shorten the rows"
    raise TrainingError(
        f"{len(bare)} of {len(rows)} training rows have no supervised token: {why}\n"
        f"{listed(row.place for row in bare)}\n  {remedy}"
    )


def _check_truncation(rows: Sequence[TokenRow], max_length: int, allowed: int) -> None:
    long = [row for row in rows if len(row.ids) > max_length]
    if len(long) <= allowed:
        return
    longest = max(len(row.ids) for row in long)
    raise TrainingError(
        f"{len(long)} of {len(rows)} training rows are longer than max_seq_length {max_length} "
        f"(allowed: {allowed}): they lose the end of the answer, and the stop token with it\n"
        f"{listed(f'{row.place} ({len(row.ids)} tokens)' for row in long)}\n"
        f"  raise training.max_seq_length to {longest}, shorten the rows, or allow it in the contract "
        f"(tokens: {{max_truncated: {len(long)}}})"
    )


def check_stop(rows: Sequence[TokenRow], stops: Stops, max_length: int) -> None:
    """Raise TrainingError for whole rows whose answer does not end in a stop token: they teach to go on."""
    whole = [row for row in rows if len(row.ids) <= max_length]
    endless = [row.place for row in whole if not stops.ids.intersection(row.supervised(max_length))]
    if endless:
        raise TrainingError(
            f"{len(endless)} of {len(rows)} training rows never show the stop token {stops.token!r} "
            f"(id {', '.join(map(str, sorted(stops.ids)))}) after the answer: it would not learn to stop\n"
            f"{listed(endless)}\n"
            "  the tokenizer's chat template must end an assistant message with it"
        )


class Room(NamedTuple):
    """What the loaded model can take: its positions and its embeddings, None for what it does not bound."""

    positions: int | None
    embeddings: int | None


def check_room(rows: Sequence[TokenRow], max_length: int, room: Room) -> None:
    """Raise TrainingError for rows with more tokens than the model has positions, or with ids that it does not know."""
    if room.positions is not None:
        long = [row for row in rows if min(len(row.ids), max_length) > room.positions]
        if long:
            raise TrainingError(
                f"{len(long)} of {len(rows)} training rows are longer than the model's {room.positions} positions\n"
                f"{listed(f'{row.place} ({len(row.ids)} tokens)' for row in long)}\n"
                f"  lower training.max_seq_length to {room.positions}, or take a base with a longer context"
            )
    if room.embeddings is not None:
        unknown = [row for row in rows if max(row.ids[:max_length], default=0) >= room.embeddings]
        if unknown:
            raise TrainingError(
                f"{len(unknown)} of {len(rows)} training rows hold tokens for which the model has no embedding: it has "
                f"{room.embeddings}\n"
                f"{listed(f'{row.place} (token id {max(row.ids)})' for row in unknown)}\n"
                "  put the tokenizer beside the model that it was made for, or resize the model's embeddings"
            )


def check_written(rows: Sequence[TokenRow], written: Mapping[int, Sequence[int]], max_length: int) -> None:
    """Raise TrainingError when the trainer writes other tokens than the rows are asked and answered with."""
    other = [
        row.place
        for at, row in enumerate(rows)
        if at in written and tuple(written[at]) != row.ids[:max_length]
    ]
    if other:
        raise TrainingError(
            f"training.sft.assistant_only_loss lets TRL write the rows, and it writes {len(other)} of {len(rows)} "
            f"otherwise than they are asked\n{listed(other)}\n"
            "  leave assistant_only_loss out: the loss is that of the answer alone"
        )


def check_trained_rows(
    rows: Sequence[TokenRow], trained: Mapping[int, Sequence[int]], max_length: int
) -> None:
    """Raise TrainingError when the trainer's data set is not ours: rows left out, or other labels.

    `trained` maps the index of a row to the labels that the trainer built for it.
    """
    missing = [row.place for index, row in enumerate(rows) if index not in trained]
    if missing:
        raise TrainingError(
            f"the trainer left out {len(missing)} of {len(rows)} training rows\n{listed(missing)}"
        )
    other = [
        row.place
        for index, row in enumerate(rows)
        if tuple(label for label in trained[index] if label != IGNORED) != row.supervised(max_length)
    ]
    if other:
        raise TrainingError(
            f"the trainer supervises other tokens than the answer in {len(other)} of {len(rows)} rows\n"
            f"{listed(other)}"
        )


def token_figures(rows: Sequence[TokenRow], max_length: int) -> dict[str, int]:
    """Return `p50`, `p95` and `max` of the lengths, the number `truncated`, and all `supervised` tokens."""
    lengths = sorted(len(row.ids) for row in rows)
    return {
        "p50": _rank(lengths, 50),
        "p95": _rank(lengths, 95),
        "max": lengths[-1] if lengths else 0,
        "truncated": sum(length > max_length for length in lengths),
        "supervised": sum(len(row.supervised(max_length)) for row in rows),
    }


def _rank(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that at least `percent` of all values do not exceed."""
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)] if ordered else 0


def listed(items: Iterable[str]) -> str:
    """Return the first items, one a line, and how many more there are."""
    every = list(items)
    lines = [f"  {item}" for item in islice(every, SHOWN)]
    if len(every) > SHOWN:
        lines.append(f"  and {len(every) - SHOWN} more")
    return "\n".join(lines)
