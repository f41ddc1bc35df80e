"""The rendering check: before a server answers, and by what it has counted while it did."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.encoding import Encoder
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.http import WireError
from pytest_finetune.answering.runtimes.server.rendering import Pair, Rendering, Written, compared, counted_by
from pytest_finetune.answering.runtimes.server.speaking import Speaker, question
from pytest_finetune.errors import FinetuneError
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.training.base import BaseSource
    from pytest_finetune.yamlfile import JsonTree

_MOST_MARKS: Final = 64
_RESERVED: Final = re.compile("reserved|unused|extra_id|fim", re.IGNORECASE)


class Judged:
    """A base's tokenizer, as the side on which the decision stands; `stops` are those of its folder.

    `marks` are its special tokens: a server may take one for an end by its text alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, stops: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer, name)
        end = tokenizer.eos_token_id
        self.start: int | None = tokenizer.bos_token_id
        self.stops = tuple(dict.fromkeys([*stops, *([] if end is None else [end])]))
        added = tokenizer.added_tokens_decoder.items()
        kept = [at for at, token in added if token.special and not _RESERVED.search(str(token))]
        self.marks = tuple(kept[:_MOST_MARKS])

    def decoded(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        found = self._tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(found)

    @property
    def added_start(self) -> str:
        """The text of the begin token where the tokenizer puts it before a text by itself; else nothing."""
        found = list(self._tokenizer(text="a", add_special_tokens=True)["input_ids"])[:1]
        return self.decoded(found) if self.start is not None and found == [self.start] else ""

    def written(self, asked: Prompted) -> Written:
        """Return a prompt as the decision reads it. Raises AnsweringError."""
        found = self._encoder.encoded(asked)
        return Written(found.ids, found.text)

    def split(self, told: Written) -> Written:
        """Give a prompt that a server shows as text alone the tokens that this tokenizer, and its begin token, make."""
        if told.tokens or told.text is None:
            return told
        return told._replace(tokens=self._tokenizer(text=told.text, add_special_tokens=True)["input_ids"])

    def dated(self, asked: Prompted) -> bool:
        """Tell whether the template of this prompt writes the date of the day."""
        return not isinstance(asked.prompt, str) and self._encoder.chat(asked.arguments).dated


def judged_by(source: BaseSource, stops: Sequence[int]) -> Callable[[], Judged]:
    """Return what loads the tokenizer of a base, when it is first needed."""

    def load() -> Judged:
        from pytest_finetune.training.model import load_tokenizer

        with surroundings(offline=source.local):
            return Judged(load_tokenizer(source), source.name, stops)

    return load


@dataclass(slots=True)
class RenderingCheck:
    """Holds what a server makes of prompts against what the decision reads.

    `name` is the runtime's. With `refuses` a difference raises AnsweringError: before the first answer where the
    server shows its prompts, else before any is judged. Without, it is only told.
    """

    name: str
    judged: Callable[[], Judged]
    api: str | None = None
    refuses: bool = False
    _judged: Judged | None = None
    _round: tuple[Sequence[Prompted], list[Written]] = ((), [])

    def longest(self, prompts: Sequence[Prompted]) -> int:
        """Return how many tokens the longest of some prompts has. Raises AnsweringError."""
        return max(len(ours.tokens) for ours in self._written(prompts))

    def _written(self, prompts: Sequence[Prompted]) -> list[Written]:
        """Return prompts as the decision reads them: rendered once, however often one round of them is looked at."""
        if self._round[0] is not prompts:
            self._round = (prompts, [self.ours.written(asked) for asked in prompts])
        return self._round[1]

    def before(
        self, prompts: Sequence[Prompted], sent: Sequence[Prompted], speaker: Speaker | None
    ) -> Rendering | None:
        """Compare prompts, in the form in which they are sent, with what the server makes of them; None if it is mute.

        Raises AnsweringError where a difference is refused.
        """
        if speaker is None:
            return None
        try:
            found = self._compared(prompts, sent, speaker)
        except WireError as error:
            if self.refuses:
                raise AnsweringError(
                    f"runtime {self.name!r}: the server does not show its prompts: {error}"
                ) from None
            return None
        except (FinetuneError, ImportError):
            if self.refuses:
                raise
            return None
        return self._accepted(found)

    def after(
        self, prompts: Sequence[Prompted], before: Rendering | None, told: Mapping[str, int]
    ) -> JsonTree:
        """Return the record's form, the tokens that the server has counted included; empty where nothing is known."""
        if before is not None and before.differences:
            return before.as_json()
        try:
            ours = self._written(prompts) if told else []
        except (FinetuneError, ImportError):
            if self.refuses:
                raise
            ours = []
        counts = {asked.id: len(one.tokens) for asked, one in zip(prompts, ours, strict=False)}
        found = counted_by(before, counts, told)
        return {} if found is None else self._accepted(found).as_json()

    def _accepted(self, found: Rendering) -> Rendering:
        if self.refuses and found.differences:
            raise AnsweringError(
                f"runtime {self.name!r}: the model would not be asked as it was judged, so none of its answers is "
                f"judged\n{found.refusal}"
            )
        return found

    @property
    def ours(self) -> Judged:
        """The side of the decision, loaded when it is first needed."""
        if self._judged is None:
            self._judged = self.judged()
        return self._judged

    def _compared(self, prompts: Sequence[Prompted], sent: Sequence[Prompted], speaker: Speaker) -> Rendering:
        rows = zip(prompts, self._written(prompts), sent, strict=True)
        pairs = [self._pair(asked, written, form, speaker) for asked, written, form in rows]
        return compared(pairs, self.ours, speaker.stops_at, speaker.stop_words())

    def _pair(self, asked: Prompted, written: Written, form: Prompted, speaker: Speaker) -> Pair:
        ours = self.ours

        def alike_without_tools() -> bool:
            bare, plain = (one._replace(tools=()) for one in (asked, form))
            theirs = ours.split(speaker.written(question(plain, self.api)))
            return list(ours.written(bare).tokens) == list(theirs.tokens)

        return Pair(
            asked.id,
            asked.line,
            written,
            ours.split(speaker.written(question(form, self.api))),
            alike_without_tools if asked.tools else None,
            ours.dated(asked),
        )
