"""What a server makes of prompts, held token by token against what the decision reads; every difference has a name.

A good model that is served under another template, with a second begin token or without its stop token answers badly,
and nothing says so. So the prompts are compared before one answer is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final, NamedTuple, Protocol

from pytest_finetune.wording import counted, listed, one_line
from pytest_finetune.yamlfile import JsonTree

TEMPLATE: Final = "template"
DATE: Final = "date"
TOOLS: Final = "tools"
TURN: Final = "generation prompt"
DOUBLED: Final = "bos doubled"
MISSING: Final = "bos missing"
TOKENIZER: Final = "tokenizer"
STOP: Final = "stop token"
SENT: Final = "sent"

_WHAT: Final = {
    TEMPLATE: "the chat template writes another text",
    DATE: "the chat template writes the date of the day",
    TOOLS: "tools are rendered otherwise",
    TURN: "the prompt ends otherwise, where the answer begins",
    DOUBLED: "the begin token stands there twice",
    MISSING: "the begin token is missing",
    TOKENIZER: "the same text is split into other tokens",
    SENT: "the server reads another number of tokens than the prompt has",
}
_DO: Final = {
    TEMPLATE: "serve the chat template of the base's folder (llama-server: --jinja --chat-template-file)",
    DATE: "give the date in prompt.chat_template_kwargs (date_string, where the template reads it)",
    TOOLS: (
        "give every tool its name, description and parameters, in this order: where a description is missing, "
        "llama.cpp's server writes an empty one and vLLM null; then serve the chat template of the base's folder"
    ),
    TURN: "write what the template reads into prompt.chat_template_kwargs, as in {enable_thinking: false}",
    DOUBLED: "take the begin token out of the template that is served, or add_bos_token out of its tokenizer",
    MISSING: "serve a model whose tokenizer adds the begin token (in a GGUF: tokenizer.ggml.add_bos_token)",
    TOKENIZER: "convert the model with a converter that knows its tokenizer (in a GGUF: tokenizer.ggml.pre)",
    STOP: "serve a model that names it as an end (in a GGUF: tokenizer.ggml.eos_token_id or eot_token_id)",
    SENT: "let the server take the prompt as it is sent, without a template or a system prompt of its own",
}
_SHOWN_BEFORE: Final = 4
_SHOWN_AFTER: Final = 8
_SHOWN_CHARACTERS: Final = 60


class Written(NamedTuple):
    """A prompt as one side makes it: its tokens, and its text where that side tells it."""

    tokens: Sequence[int]
    text: str | None = None


class Decision(Protocol):
    """The side on which the decision stands; `start` is the begin token, `stops` end an answer, `marks` could."""

    @property
    def start(self) -> int | None: ...
    @property
    def stops(self) -> Sequence[int]: ...
    @property
    def marks(self) -> Sequence[int]: ...

    def decoded(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        ...


class Pair(NamedTuple):
    """One row on both sides; `alike_without_tools` asks both again without its tools."""

    id: str
    line: int
    ours: Written
    theirs: Written
    alike_without_tools: Callable[[], bool] | None = None
    dated: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of difference: on how many rows it was found, the whole sentence, and what to do."""

    kind: str
    rows: int
    says: str
    do: str

    def as_json(self) -> JsonTree:
        """Return the record's form."""
        return {"kind": self.kind, "rows": self.rows, "says": self.says, "do": self.do}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was compared, on how many rows, and where a server differs.

    `by` is "tokens" where the server shows its prompts, "counts" where it only says how many tokens each had. `ends`
    are the texts at which the server ends an answer and the decision goes on: no difference until an answer holds one.
    """

    rows: int
    by: str
    differences: tuple[Difference, ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """Say in one line what was found."""
        if self.differences:
            return "; ".join(found.says for found in self.differences)
        told = "token by token" if self.by == "tokens" else "by their number of tokens"
        return f"prompts are as judged on {counted(self.rows, 'row')}, compared {told}"

    @property
    def refusal(self) -> str:
        """Say what differs, a line each, and what to do."""
        lines = [f"  {found.kind}: {found.says}\n    {found.do}" for found in self.differences]
        return "\n".join(lines)

    def as_json(self) -> JsonTree:
        """Return the record's form."""
        found = [one.as_json() for one in self.differences]
        ends = {"ends": list(self.ends)} if self.ends else {}
        return {"rows": self.rows, "by": self.by, "differences": found, "says": self.says, **ends}


def compared(
    pairs: Sequence[Pair],
    decision: Decision,
    stops_at: Callable[[int], bool | None] = lambda _: None,
    words: Sequence[str] = (),
) -> Rendering:
    """Compare rows as both sides write them, and what ends an answer.

    `stops_at` tells whether the server ends an answer at a token, None where that cannot be known; `words` are texts
    at which it ends one.
    """
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        if list(pair.ours.tokens) != list(pair.theirs.tokens):
            found.setdefault(kind_of(pair, decision), []).append(pair)
    differences = [_told(kind, apart, len(pairs), decision) for kind, apart in found.items()]
    unheeded = [stop for stop in decision.stops if stops_at(stop) is False]
    if unheeded:
        names = listed([repr(decision.decoded([stop])) for stop in unheeded])
        says = f"an answer ends at {names} for the decision, and goes on there at the server"
        differences.append(Difference(STOP, len(pairs), says, _DO[STOP]))
    marks = [mark for mark in decision.marks if mark not in decision.stops and stops_at(mark)]
    known = [decision.decoded([stop]) for stop in decision.stops]
    ends = dict.fromkeys([*(decision.decoded([mark]) for mark in marks), *words])
    return Rendering(len(pairs), "tokens", tuple(differences), tuple(end for end in ends if end not in known))


def kind_of(pair: Pair, decision: Decision) -> str:
    """Name what differs in a row whose tokens are not the same."""
    ours, theirs = (_after_start(side.tokens, decision.start) for side in (pair.ours, pair.theirs))
    if ours.rest == theirs.rest:
        return DOUBLED if theirs.starts > ours.starts else MISSING
    judged, served = _texts(pair, decision)
    if judged == served:
        return TOKENIZER
    if pair.alike_without_tools is not None and pair.alike_without_tools():
        return TOOLS
    if pair.dated:
        return DATE
    if judged.startswith(served) or served.startswith(judged):
        return TURN
    return TEMPLATE


def _texts(pair: Pair, decision: Decision) -> list[str]:
    """Return both texts without their begin tokens, which one side may only add when it splits the text."""
    start = "" if decision.start is None else decision.decoded([decision.start])
    found = []
    for side in (pair.ours, pair.theirs):
        text = decision.decoded(side.tokens) if pair.theirs.text is None or side.text is None else side.text
        while start and text.startswith(start):
            text = text.removeprefix(start)
        found.append(text)
    return found


class _AfterStart(NamedTuple):
    starts: int
    rest: list[int]


def _after_start(tokens: Sequence[int], start: int | None) -> _AfterStart:
    """Tell how many begin tokens a prompt opens with, and what follows them."""
    starts = sum(1 for _ in takewhile(lambda token: token == start, tokens))
    return _AfterStart(starts, list(tokens[starts:]))


def _told(kind: str, apart: Sequence[Pair], rows: int, decision: Decision) -> Difference:
    """Say of one kind of difference where it is found first, with both texts."""
    first = apart[0]
    at = _parting(first.ours.tokens, first.theirs.tokens)
    seen = slice(max(0, at - _SHOWN_BEFORE), at + _SHOWN_AFTER)
    ours, theirs = (
        one_line(repr(decision.decoded(side.tokens[seen])), _SHOWN_CHARACTERS)
        for side in (first.ours, first.theirs)
    )
    says = (
        f"{_WHAT[kind]} on {len(apart)} of {counted(rows, 'row')}, first on {first.id} (line {first.line}) at token "
        f"{at + 1}: judged {ours}, served {theirs}"
    )
    return Difference(kind, len(apart), says, _DO[kind])


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return the position of the first token that differs."""
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def counted_by(
    before: Rendering | None, ours: Mapping[str, int], told: Mapping[str, int]
) -> Rendering | None:
    """Hold the prompts' numbers of tokens against those that the server has counted while it answered.

    `before` is what was compared token by token. A server that then counts otherwise answers another prompt than
    it shows; None where it has told nothing at all.
    """
    rows = [row for row in ours if row in told]
    apart = [row for row in rows if ours[row] != told[row]]
    if before is None and not rows:
        return None
    found = before or Rendering(len(rows), "counts")
    if not apart or found.differences:
        return found
    first = apart[0]
    says = (
        f"{_WHAT[SENT]} on {len(apart)} of {counted(len(rows), 'row')}, first on {first}: judged {ours[first]}, "
        f"served {told[first]}"
    )
    return replace(found, differences=(Difference(SENT, len(apart), says, _DO[SENT]),))
