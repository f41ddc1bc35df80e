"""Join foreign answers to the held-out rows: by id, input text or index, and only where the question is the same.

An id alone proves nothing: a tool that filtered, limited or shuffled its documents counts them anew. Where a file
shows what was asked, it must show the row's question, compared without regard to white space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune import wording
from pytest_finetune.answering.answers import AnswersError

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row

BY_QUESTION: Final = "question"
_SHOWN_CHARACTERS: Final = 80
_SHOWN_PAIRS: Final = 3


class Found(NamedTuple):
    """One answer in a foreign file: where it stands, what names its row, what was asked and said.

    `counted` says that its id is a position that the tool gave, not a name that stands in the row; `shown` are all
    texts of the file that may hold the question; `thinking` is what the file tells apart from the answer.
    """

    where: str
    id: str | None
    position: int | None
    counted: bool
    input: str | None
    shown: Sequence[str]
    prompt: str
    response: str
    tokens: int
    seconds: float
    stopped: bool
    thinking: str | None = None
    thinking_tokens: int = 0


class Joined(NamedTuple):
    """The answer of each row by the row's id, and how the answers found their rows."""

    by_row: Mapping[str, Found]
    by: str


def join(found: Sequence[Found], label: str, rows: Sequence[Row]) -> Joined:
    """Return one answer for each row; AnswersError names whatever is missing, twice, too many or another question.

    Where ids only count positions and every row's question stands in the file exactly once, the questions decide.
    """
    by, row_of = _way(found, rows)
    questions = _Questions(rows)
    try:
        by_row = _one_for_each(found, label, rows, by, row_of)
        _refuse_other_questions(by_row, label, rows, by, questions)
    except AnswersError as error:
        shifted = questions.answered_once(found)
        if shifted is None:
            raise
        if not all(one.counted for one in found):
            raise AnswersError(f"{error}{_SHIFTED}") from None
        return Joined(shifted, BY_QUESTION)
    return Joined(by_row, by)


_SHIFTED: Final = (
    "\n  every row's question stands in the file exactly once, under another id: the ids are shifted; "
    "write the rows' own ids into the file"
)


def _way(found: Sequence[Found], rows: Sequence[Row]) -> tuple[str, Callable[[Found], Row | None]]:
    """Choose how answers are matched: the first way under which any answer finds its row."""
    ids = {row.id: row for row in rows}
    if any(one.id in ids for one in found):
        return "id", lambda one: ids.get(one.id or "")
    counts = Counter(row.input for row in rows)
    inputs = {row.input: row for row in rows if counts[row.input] == 1}
    if any(one.input in inputs for one in found):
        return "input text", lambda one: inputs.get(one.input or "")
    prompts = any(one.input is not None for one in found)

    def at(one: Found) -> Row | None:
        # A text that is no row's input is another data set's: its index would name the wrong row.
        inside = not prompts and one.position is not None and 0 <= one.position < len(rows)
        return rows[one.position] if inside and one.position is not None else None

    return "index", at


def _one_for_each(
    found: Sequence[Found], label: str, rows: Sequence[Row], by: str, row_of: Callable[[Found], Row | None]
) -> dict[str, Found]:
    matched: dict[str, Found] = {}
    unmatched, twice = [], []
    for one in found:
        row = row_of(one)
        if row is None:
            unmatched.append(one.where)
        elif row.id in matched:
            twice.append(f"{row.id} ({matched[row.id].where} and {one.where})")
        else:
            matched[row.id] = one
    missing = [row.id for row in rows if row.id not in matched]
    faults = [
        (unmatched, "belong to no held-out row"),
        (twice, "are second answers to one row"),
        (missing, "held-out rows have no answer"),
    ]
    lines = [f"  {len(names):,} {what}: {wording.listed(names)}" for names, what in faults if names]
    if lines:
        raise AnswersError(
            f"{label}: {len(found):,} answers, matched by {by}, are not one for each of the "
            f"{wording.counted(len(rows), 'row')}\n"
            + "\n".join(lines)
            + "\n  nothing is decided on a part of the rows: "
            "let the other tool answer the same held-out file, once"
        )
    return matched


def _refuse_other_questions(
    by_row: Mapping[str, Found], label: str, rows: Sequence[Row], by: str, questions: _Questions
) -> None:
    wrong = [row for row in rows if not questions.may_be(row, by_row[row.id])]
    if not wrong:
        return
    lines = []
    for row in wrong[:_SHOWN_PAIRS]:
        one = by_row[row.id]
        lines.append(f"  row {row.id} ({row.place}) asks {_short(_question(row))}")
        lines.append(f"    {one.where} shows {_short(max(one.shown, key=len))}")
    if len(wrong) > _SHOWN_PAIRS:
        lines.append(f"  and {len(wrong) - _SHOWN_PAIRS:,} more")
    raise AnswersError(
        f"{label}: {len(wrong):,} of {len(rows):,} answers, matched by {by}, are to another question\n"
        + "\n".join(lines)
        + "\n  let the other tool answer the same held-out file; answers that show no question "
        "(id and response alone, format: outputs) are joined by id as they stand"
    )


class _Questions:
    """What the rows ask, to be found in what a file shows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._by_text: dict[str, list[Row]] = {}
        for row in rows:
            self._by_text.setdefault(_question(row), []).append(row)

    def may_be(self, row: Row, one: Found) -> bool:
        """Tell whether what an answer shows can be this row's question; an answer that shows nothing can."""
        texts = _texts(one)
        if not texts:
            return True
        question = _question(row)
        if question not in texts:
            another = any(text in self._by_text for text in texts)
            if another or not any(question in text for text in texts):
                return False
        rivals = [other for other in self._by_text[question] if _around(other) != _around(row)]
        return _holds(texts, _around(row)) or not any(_holds(texts, _around(other)) for other in rivals)

    def answered_once(self, found: Sequence[Found]) -> dict[str, Found] | None:
        """Return the answer that shows each row's question, None unless that is one for each and no more."""
        matched: dict[str, Found] = {}
        for one in found:
            rows = self._asked(_texts(one))
            if len(rows) != 1 or rows[0].id in matched:
                return None
            matched[rows[0].id] = one
        return matched if len(matched) == len(self.rows) else None

    def _asked(self, texts: set[str]) -> list[Row]:
        questions = texts & self._by_text.keys()
        if not questions:
            inside = {question for question in self._by_text if any(question in text for text in texts)}
            questions = {one for one in inside if not any(one != other and one in other for other in inside)}
        rows = [row for question in questions for row in self._by_text[question]]
        return rows if len(rows) == 1 else [row for row in rows if _holds(texts, _around(row))]


def _question(row: Row) -> str:
    """Return what a row asks: the last user message of a conversation, else the input, else the instruction."""
    asked = row.input or row.instruction
    if row.messages is not None:
        asked = [str(turn["content"]) for turn in row.messages if turn["role"] == "user"][-1]
    return " ".join(asked.split())


def _around(row: Row) -> tuple[str, ...]:
    """Return what else tells rows apart that ask the same: the instruction, the turns before."""
    before = [row.instruction]
    if row.messages is not None:
        before = [str(turn["content"]) for turn in row.messages[:-1]]
    return tuple(" ".join(text.split()) for text in before)


def _texts(one: Found) -> set[str]:
    return {text for text in (" ".join(shown.split()) for shown in one.shown) if text}


def _holds(texts: set[str], parts: Sequence[str]) -> bool:
    return all(any(part in text for text in texts) for part in parts)


def _short(text: str) -> str:
    return repr(wording.one_line(text, _SHOWN_CHARACTERS))
