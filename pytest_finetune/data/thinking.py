"""Find the answer in what a model wrote: after its thinking, without what its chat template writes around it.

Thinking is looked for only where the base's own template or special tokens know a block of it, and only where a turn
begins: an answer that speaks of ``<think>`` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_finetune.yamlfile import JsonTree

# What a template or tokenizer shows that knows a block, and the texts that open and close it.
_BLOCKS: Final = (
    ("<|channel|>", "<|channel|>analysis<|message|>", "<|end|>"),  # gpt-oss
    ("<|channel>", "<|channel>thought", "<channel|>"),  # Gemma 4
    (" to=self<|message|>", " to=self<|message|>", "<|eom|>"),  # Muse
    ("<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|begin_of_thought|>", "<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁think▷", "◁/think▷"),  # Kimi
)
_OPENING: Final = re.compile(
    r"[<\[](?:\w+:)?(?:think|thinking|thought|thoughts|reasoning|reason)[>\]]", re.IGNORECASE
)
_CLOSING: Final = re.compile(_OPENING.pattern.replace(r"[<\[]", r"[<\[]/", 1), re.IGNORECASE)


_LONGEST: Final = 30  # letters of an opening


class Mark(NamedTuple):
    """The two texts between which a model thinks."""

    open: str
    close: str


class Read(NamedTuple):
    """What a model wrote, taken apart; `thinking` is None where there was none, `until` how much of it is thinking."""

    answer: str
    thinking: str | None = None
    until: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How a base writes its turn: its blocks of thinking, and what its template puts around an answer.

    `turn` opens a turn, `header` stands between that and the answer, `footer` between the answer and the stop token.
    `special` are the special tokens that a text must show before it can be read.
    """

    marks: tuple[Mark, ...] = ()
    turn: str = ""
    header: str = ""
    footer: str = ""
    special: tuple[str, ...] = ()

    @classmethod
    def knowing(
        cls,
        special: Sequence[str],
        marks: tuple[Mark, ...],
        turn: str = "",
        header: str = "",
        footer: str = "",
    ) -> Reading:
        """Make it for a tokenizer with these special tokens."""
        written = "".join((header, footer, *(text for mark in marks for text in mark)))
        if any(token in written for token in special):
            written += turn  # between a thought and an answer another turn is opened
        return cls(marks, turn, header, footer, tuple(token for token in special if token in written))

    @property
    def plain(self) -> bool:
        """Whether an answer is all that the model wrote."""
        return not (self.marks or self.header or self.footer)

    def facts(self) -> JsonTree:
        """Return it as JSON, for keys and the record."""
        return {
            "thinking": [list(mark) for mark in self.marks],
            "turn": self.turn,
            "header": self.header,
            "footer": self.footer,
        }

    def opened(self, asked: str) -> Mark | None:
        """Return the block of thinking that a question ends in, None where it opens none."""
        end = asked.rstrip()
        return next((mark for mark in self.marks if end.endswith(mark.open.strip())), None)

    def closing(self, asked: str, lead: str, thought: str = "") -> str:
        """Return what ends the thinking that a question opened, after a `thought` that the template leaves out.

        `lead` is how the template begins a finished turn.
        """
        mark = self.opened(asked)
        if mark is None:
            return ""
        _, found, rest = lead.rpartition(mark.open)
        if not thought and found and mark.close in rest and lead.endswith(rest):
            return rest[rest.index(mark.close) :]
        blank = asked[len(asked.rstrip()) :]
        return f"{thought}{blank}{mark.close}{blank * 2}"

    def read(self, text: str, asked: str, *, stopped: bool = True) -> Read:
        """Take apart what was written after a question; `stopped` says that the model ended by itself.

        A block that the limit cut leaves no answer. One that the question opened and that the model neither closed
        nor was cut in was no thinking.
        """
        thoughts, rest, open_ = [], text, self.opened(asked)
        while mark := open_ or self._begins(rest):
            inner = rest if open_ is mark else rest[rest.index(mark.open) + len(mark.open) :]
            thought, closed, after = inner.partition(mark.close)
            if not closed and open_ is mark and stopped:
                break
            thoughts.append(thought.removeprefix(mark.open).strip())
            open_, rest = None, after.lstrip().removeprefix(self.turn)
            if not closed:
                break
        thinking = "\n\n".join(filter(None, thoughts)) or None
        return Read(self._unframed(rest), thinking, len(text) - len(rest) if thoughts else 0)

    def _begins(self, text: str) -> Mark | None:
        start = text.lstrip()
        return next((mark for mark in self.marks if start.startswith(mark.open.lstrip())), None)

    def _unframed(self, text: str) -> str:
        answer = text.removeprefix(self.header).removesuffix(self.footer)
        for token in self.special:
            answer = answer.replace(token, "")
        return answer


def read_foreign(text: str) -> Read:
    r"""Take apart what a model wrote whose template nobody knows: only a thought that stands before all else is one.

    It may lack its opening, which such a template wrote into the question (R1), or, where a limit cut it, its end.

    >>> read_foreign("<think>so</think>\n\nhigh").answer, read_foreign("so</think>high").thinking
    ('high', 'so')
    >>> read_foreign("write <think> and </think>").thinking
    """
    start = text.lstrip()
    marks = [Mark(open_, close) for _, open_, close in _BLOCKS if start.startswith(open_.lstrip())]
    if found := _OPENING.match(start):
        marks.append(Mark(found.group(), _closing(found.group())))
    if marks:
        return Reading(tuple(marks)).read(text, "")
    thought, closing, answer = _partition(text)
    if not closing or _OPENING.search(thought):
        return Read(text)
    return Read(answer.lstrip(), thought.strip() or None, len(thought) + len(closing))


def _partition(text: str) -> tuple[str, str, str]:
    """Part a text at the first mark that closes a thought."""
    found = _CLOSING.search(text)
    return (text[: found.start()], found.group(), text[found.end() :]) if found else (text, "", "")


def find_marks(template: str, special: Sequence[str]) -> tuple[Mark, ...]:
    """Return the blocks of thinking that a chat template or the special tokens know.

    >>> find_marks("{{ content.split('</think>')[-1] }} <think>", ())
    (Mark(open='<think>', close='</think>'),)
    >>> find_marks("", ["[THINK]", "[/THINK]"])
    (Mark(open='[THINK]', close='[/THINK]'),)
    """
    written = "\n".join((template, *special))
    return tuple(dict.fromkeys(_marks(written)))


def opened_at_the_end(asked: str) -> Iterator[Mark]:
    r"""Yield the block that a question ends in, though its template never closes one.

    >>> list(opened_at_the_end("<|assistant|><think>\n"))
    [Mark(open='<think>', close='</think>')]
    """
    if found := _OPENING.search(asked.rstrip()[-_LONGEST:]):
        open_ = found.group()
        if asked.rstrip().endswith(open_):
            yield Mark(open_, _closing(open_))


def _closing(open_: str) -> str:
    return f"{open_[0]}/{open_[1:]}"


def _marks(written: str) -> Iterator[Mark]:
    for shown, open_, close in _BLOCKS:
        if shown in written and close in written:
            yield Mark(open_, close)
    for open_ in _OPENING.findall(written):
        if (close := _closing(open_)) in written:
            yield Mark(open_, close)
