"""Answers that others produced, as data: our own outputs, lm-evaluation-harness samples, inspect_ai logs.

Nothing in a file is executed. Answers are joined to the held-out rows by id, else by the row's input text, else by
index; whatever is missing, answered twice or belongs to no row is an error that names it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune import wording
from pytest_finetune.answering.answers import Answer, AnswersError
from pytest_finetune.answering.inspect_log import inspect_samples

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row

FORMATS: Final = ("outputs", "lm_eval", "inspect")


class Found(NamedTuple):
    """One answer in a foreign file: where it stands, what names its row, what was said."""

    where: str
    id: str | None
    position: int | None
    input: str | None
    prompt: str
    response: str
    tokens: int
    seconds: float
    stopped: bool


def imported_answers(path: Path, label: str, form: str, rows: Sequence[Row]) -> dict[str, Answer]:
    """Return one answer for each row by id, in the rows' order; AnswersError names the file and what is wrong."""
    try:
        found = list(_READERS[form](path, label))
    except FileNotFoundError:
        raise AnswersError(f"{label}: no such file of answers") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"{label}: cannot be read: {error}") from None
    if not found:
        raise AnswersError(f"{label}: holds no answer")
    by_row = _joined(found, label, rows)
    return {
        row.id: Answer(row.id, row.line, one.prompt, one.response, one.tokens, one.seconds, one.stopped)
        for row in rows
        for one in [by_row[row.id]]
    }


def _joined(found: Sequence[Found], label: str, rows: Sequence[Row]) -> dict[str, Found]:
    by, row_of = _way(found, rows)
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
            f"{wording.rows(len(rows))}\n"
            + "\n".join(lines)
            + "\n  nothing is decided on a part of the rows: "
            "let the other tool answer the same held-out file, once"
        )
    return matched


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


def _lines(path: Path, label: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{label}:{number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise AnswersError(f"{where}: no JSON: {error}") from None
            if not isinstance(value, dict):
                raise AnswersError(f"{where}: an answer is an object, this is {type(value).__name__}")
            yield where, value


def _outputs(path: Path, label: str) -> Iterator[Found]:
    """Read ``outputs/<arm>.jsonl`` of a record; only `id` and `response` are needed."""
    for where, value in _lines(path, label):
        yield Found(
            where=where,
            id=_text(value, "id", where),
            position=None,
            input=None,
            prompt=value["prompt"] if isinstance(value.get("prompt"), str) else "",
            response=_text(value, "response", where),
            tokens=int(_number(value.get("tokens"))),
            seconds=_number(value.get("seconds")),
            stopped=value.get("stopped") is not False,
        )


def _lm_eval(path: Path, label: str) -> Iterator[Found]:
    """Read a ``samples_<task>_<time>.jsonl`` of lm-evaluation-harness, written with ``--log_samples``.

    The raw response (`resps`) is taken, not the filtered one. A document stands there once for each filter; the
    first filter's lines are read.
    """
    wanted: Any = None
    for number, (where, value) in enumerate(_lines(path, label)):
        if number == 0:
            wanted = value.get("filter")
        if value.get("filter") != wanted:
            continue
        doc = value["doc"] if isinstance(value.get("doc"), dict) else {}
        prompt = _first_argument(value.get("arguments"))
        named = doc.get("id")
        given = doc.get("input")
        index = value.get("doc_id")
        yield Found(
            where=where,
            id=str(named) if isinstance(named, str | int) else None,
            position=index if isinstance(index, int) else None,
            input=given if isinstance(given, str) else None,
            prompt=prompt,
            response=_response(value.get("resps"), where),
            tokens=0,
            seconds=0.0,
            stopped=True,
        )


def _first_argument(arguments: Any) -> str:
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else None
    return prompt if isinstance(prompt, str) else ""


def _response(resps: Any, where: str) -> str:
    """Return the only generated text; log-likelihood tasks and repeated sampling have no such one."""
    while isinstance(resps, list) and len(resps) == 1:
        (resps,) = resps
    if not isinstance(resps, str):
        raise AnswersError(
            f"{where}: 'resps' holds {_kind(resps)} in place of one generated text: use a generate_until task "
            "without repeats"
        )
    return resps


def _inspect(path: Path, label: str) -> Iterator[Found]:
    for where, sample in inspect_samples(path, label):
        named = sample.get("id")
        yield Found(
            where=where,
            id=str(named) if isinstance(named, str | int) else None,
            position=named - 1 if isinstance(named, int) else None,
            input=sample["input_text"],
            prompt=sample["input_text"] or "",
            response=sample["response"],
            tokens=int(_number(sample["tokens"])),
            seconds=_number(sample["seconds"]),
            stopped=sample["stopped"],
        )


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise AnswersError(f"{where}: {key!r} is {_kind(found)}, an answer needs it as text")
    return found


def _number(value: Any) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else 0.0
    )


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__


_READERS: Final[Mapping[str, Callable[[Path, str], Iterator[Found]]]] = {
    "outputs": _outputs,
    "lm_eval": _lm_eval,
    "inspect": _inspect,
}
