"""Count tokens of training rows with the model's own tokenizer and template, without torch or transformers.

The rows are tokenised as training does it: the prompt as it will be asked, and prompt, answer and stop token
as one text. Only ``tokenizer.json`` (a fast tokenizer) can be read this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.data.chat import folder_chat, token_text
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.formatting import CHAT, Pair, Turns, format_pair
from pytest_finetune.data.rows import Rows
from pytest_finetune.data.tokenizer_files import CONFIG, NoTokenizer, read_tree, tokenizer_config
from pytest_finetune.data.turns import Spans, supervised, tokens_of
from pytest_finetune.fingerprint import BaseModelError, base_folder
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from pytest_finetune.data.chat import Chat, Taught
    from pytest_finetune.data.rows import Row
    from pytest_finetune.experiment import Experiment, Prompt


_SHOWN: Final = 3  # tokens before the place at which two prompts part


class TokenCount(NamedTuple):
    """One row in tokens.

    `prompt` counts the first tokens that the row shares with its prompt asked alone; `kept` says that these
    are all of the prompt's tokens, `stops` that a stop token follows in the answer, `moved` that the chat template
    alone would have ended the prompt otherwise; `highest` is the largest token id; only the tokens in `taught` carry
    loss, None is the whole answer. `apart` shows both ends of a prompt that is not kept, `refused` says why a chat
    template cannot write the row, `rewritten` is the answer that it writes instead; `ending` is the special token that
    ends an answer which no stop token ends.
    """

    length: int
    prompt: int
    kept: bool
    stops: bool
    moved: bool = False
    highest: int = 0
    taught: Spans | None = None
    apart: str = ""
    refused: str = ""
    rewritten: str | None = None
    ending: str = ""

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

    `turns` says which answers of a conversation are taught, `chat` is the base's chat template where it is asked with
    one. `special` are the texts of special tokens, those that end an answer in `stops`; `start` is the one that the
    tokenizer puts before every text that is no conversation.
    """

    count: Callable[[Sequence[Pair]], list[TokenCount]]
    prompt: Prompt
    max_length: int
    limits: Limits = field(default_factory=Limits)
    turns: Turns = "last"
    chat: Chat | None = None
    special: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    start: str = ""
    _counted: dict[int, tuple[Rows, list[TokenCount]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def counts(self, rows: Iterable[Row]) -> list[TokenCount]:
        """Return one count for each row, in order; a file's rows are counted once."""
        if not isinstance(rows, Rows):
            return self.count([format_pair(row, self.prompt, self.turns) for row in rows])
        if id(rows) not in self._counted:  # the rows are kept with their counts, so no other has their id
            pairs = [format_pair(row, self.prompt, self.turns) for row in rows]
            self._counted[id(rows)] = rows, self.count(pairs)
        return self._counted[id(rows)][1]

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
    tokenizer = _fast(folder)
    eos = token_text(tokenizer_config(folder).get("eos_token"))
    if eos is None:
        raise NoTokenizer(f"{folder / CONFIG}: no eos_token")
    stops = _stop_ids(tokenizer, eos, read_tree(folder / "generation_config.json"))
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    chat = folder_chat(folder, prompt.chat_template_kwargs, added)

    if prompt.template == CHAT and not chat.known:
        raise NoTokenizer(f"{folder}: the tokenizer has no chat template")

    def count(pairs: Sequence[Pair]) -> list[TokenCount]:
        if pairs and not isinstance(pairs[0].prompt, str):
            return [_counted_chat(chat, pair, tokenizer, stops) for pair in pairs]
        flat = [text for pair in pairs for text in _plain_texts(pair, eos)]
        ids = [encoding.ids for encoding in tokenizer.encode_batch(flat)]
        return [
            _counted(prompt, whole, stops, tokenizer)
            for prompt, whole in zip(ids[::2], ids[1::2], strict=True)
        ]

    base = read_tree(folder / "config.json")
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
    limits = Limits(
        _number(base, "max_position_embeddings", "n_positions"),
        _number(base, "vocab_size"),
        vocabulary,
        new_tokens,
    )
    return Tokenization(
        count,
        prompt,
        max_length,
        limits,
        turns,
        chat if prompt.template == CHAT else None,
        chat.special,
        tuple(token for token in chat.special if tokenizer.token_to_id(token) in stops),
        "" if prompt.template == CHAT else _start(tokenizer),
    )


def _start(tokenizer: Tokenizer) -> str:
    """Return the special token that the tokenizer puts before a text."""
    encoding = tokenizer.encode("a")
    before = encoding.special_tokens_mask[:1] == [1]
    return str(encoding.tokens[0]) if before else ""


def _fast(folder: Path) -> Tokenizer:
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
    return tokenizer


def tokenization_of(experiment: Experiment) -> Tokenization | None:
    """Return how rows become tokens; None when the base is not here, or only transformers can tokenise for it."""
    try:
        return tokenization(
            base_folder(experiment),
            experiment.prompt,
            experiment.training.max_seq_length,
            experiment.generation.max_new_tokens,
            experiment.training.assistant_turns,
        )
    except (BaseModelError, NoTokenizer, TemplateError):
        return None


def token_counter(folder: Path) -> Callable[[str], int]:
    """Return what counts the tokens of a text with a folder's tokenizer; its words where that needs transformers."""
    try:
        tokenizer = _fast(folder)
    except NoTokenizer:
        return lambda text: len(text.split())
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


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


def _counted_chat(chat: Chat, pair: Pair, tokenizer: Tokenizer, stops: frozenset[int]) -> TokenCount:
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    try:
        found = tokens_of(chat, pair, encode)
    except TemplateError as error:
        return TokenCount(0, 0, True, True, refused=" ".join(str(error).split()))
    said = supervised(found.ids, found.taught, len(found.ids))
    stopped = not stops.isdisjoint(said)
    return TokenCount(
        length=len(found.ids),
        prompt=found.start,
        kept=True,
        stops=stopped,
        moved=found.moved,
        highest=max(found.ids, default=0),
        taught=found.taught,
        rewritten=_rewritten(chat, pair, found.text),
        ending="" if stopped else _special_at_the_end(chat, map(tokenizer.id_to_token, said)),
    )


def _special_at_the_end(chat: Chat, tokens: Iterable[str | None]) -> str:
    found = [token for token in tokens if token and token in chat.special]
    return found[-1] if found else ""


def _rewritten(chat: Chat, pair: Pair, taught: Taught | None) -> str | None:
    """Return the answer that the template writes where it is another one, white space around it aside."""
    answer = pair.completion[0]
    if taught is None or not isinstance(answer, dict) or answer.get("tool_calls"):
        return None  # calls are written in the template's own form
    said, wanted = chat.answer_in(taught), chat.without_special(str(answer["content"]))
    return None if said.strip() == wanted.strip() else said


def _counted(
    prompt: Sequence[int], whole: Sequence[int], stops: frozenset[int], tokenizer: Tokenizer
) -> TokenCount:
    shared = 0
    for asked, taught in zip(prompt, whole, strict=False):
        if asked != taught:
            break
        shared += 1
    stopped = not stops.isdisjoint(whole[shared:])
    highest = max((*whole, *prompt), default=0)
    kept, apart = shared == len(prompt), ""
    if not kept and prompt[-1] in stops and shared == len(prompt) - 1:
        ending = tokenizer.decode([prompt[-1]], skip_special_tokens=False)
        apart = (
            f"the tokenizer puts {ending!r} after every text, so the question would be asked as one that is over: take "
            "add_eos_token out of its tokenizer_config.json, or that token out of the post_processor in tokenizer.json"
        )
    elif not kept:
        start = max(0, shared - _SHOWN)
        ends = [tokenizer.decode(ids[start : shared + 1]) for ids in (prompt, whole)]
        apart = f"asked alone it goes on {ends[0]!r}, and with the answer {ends[1]!r}"
    return TokenCount(len(whole), shared, kept, stopped, highest=highest, apart=apart)


def _stop_ids(tokenizer: Tokenizer, eos: str, generation: Json) -> frozenset[int]:
    listed = generation.get("eos_token_id", [])
    ids = [listed] if isinstance(listed, int) else list(listed or [])
    return frozenset(number for number in [tokenizer.token_to_id(eos), *ids] if number is not None)


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of the keys that holds a number; a model of several parts keeps those of its text apart."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)
