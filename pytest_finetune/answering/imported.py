"""Answers that others produced, as data: our own outputs, lm-evaluation-harness samples, inspect_ai logs.

Nothing in a file is executed. `joining` finds each answer's row.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.answering.answers import Answer, AnswersError
from pytest_finetune.answering.inspect_log import calls_beside, inspect_samples
from pytest_finetune.answering.joining import Found, join
from pytest_finetune.data.thinking import read_foreign
from pytest_finetune.data.tool_calls import with_calls
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row


_THOUGHTS: Final = ("thinking", "reasoning_content", "reasoning")


class Imported(NamedTuple):
    """One answer for each row by id, in the rows' order, and how they were joined: by what the file names or shows."""

    answers: Mapping[str, Answer]
    by: str


def imported_answers(path: Path, label: str, form: str, rows: Sequence[Row]) -> Imported:
    """Return one answer for each row; AnswersError names the file and what is wrong."""
    try:
        found = list(_READERS[form](path, label))
    except FileNotFoundError:
        raise AnswersError(f"{label}: no such file of answers") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AnswersError(f"{label}: cannot be read: {error}") from None
    if not found:
        raise AnswersError(f"{label}: holds no answer")
    by_row, by = join(found, label, rows)
    return Imported({row.id: _answer(row, by_row[row.id]) for row in rows}, by)


def _answer(row: Row, one: Found) -> Answer:
    """Return the answer as rules see it, its thinking apart: told apart by the file, or standing before it."""
    answer = Answer(row.id, row.line, one.prompt, one.response, one.tokens, one.seconds, one.stopped)
    if one.thinking is not None:
        raw = f"{one.thinking}{one.response}"
        return replace(answer, thinking=one.thinking, thinking_tokens=one.thinking_tokens, raw=raw)
    read = read_foreign(one.response)
    if read.thinking is None and read.answer == one.response:
        return answer
    cut = read.thinking is not None and not read.answer.strip()  # few files say so
    stopped = one.stopped and not cut
    return replace(answer, response=read.answer, thinking=read.thinking, raw=one.response, stopped=stopped)


def _lines(path: Path, label: str) -> Iterator[tuple[str, Json]]:
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
    """Read ``outputs/<arm>.jsonl`` of a record; only `id` and `response` are needed, or `tool_calls` in its place."""
    for where, value in _lines(path, label):
        calls = calls_beside(value, where)
        said = _text(value, "response", where) if not calls or value.get("response") is not None else None
        yield Found(
            where=where,
            id=_text(value, "id", where),
            position=None,
            counted=False,
            input=None,
            shown=list(_strings(value.get("prompt"))),
            prompt=value["prompt"] if isinstance(value.get("prompt"), str) else "",
            response=with_calls(said, calls) or "",
            tokens=int(_number(value.get("tokens"))),
            seconds=_number(value.get("seconds")),
            stopped=value.get("stopped") is not False,
            thinking=_thought(value),
            thinking_tokens=int(_number(value.get("thinking_tokens"))),
        )


def _thought(value: Json) -> str | None:
    """Return what a line tells of the thinking before its answer, under the names that servers give it."""
    return next((value[name] for name in _THOUGHTS if isinstance(value.get(name), str)), None)


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
        asked = _first_argument(value.get("arguments"))
        named = doc.get("id")
        given = doc.get("input")
        index = value.get("doc_id")
        yield Found(
            where=where,
            id=str(named) if isinstance(named, str | int) else None,
            position=index if isinstance(index, int) else None,
            counted=not isinstance(named, str | int),
            input=given if isinstance(given, str) else None,
            shown=[*_strings({**doc, "id": None}), *_strings(asked)] if asked else [*_strings(given)],
            prompt=asked if isinstance(asked, str) else "",
            response=_response(value.get("resps"), where),
            tokens=0,
            seconds=0.0,
            stopped=True,
        )


def _first_argument(arguments: Any) -> Any:
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    return first.get("arg_0") if isinstance(first, dict) else None


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
            counted=isinstance(named, int),
            input=sample["input_text"],
            shown=sample["asked"],
            prompt=sample["input_text"] or "",
            response=sample["response"],
            tokens=int(_number(sample["tokens"])),
            seconds=_number(sample["seconds"]),
            stopped=sample["stopped"],
            thinking=sample["thinking"],
        )


def _text(value: Json, key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str):
        raise AnswersError(f"{where}: {key!r} is {_kind(found)}, an answer needs it as text")
    return found


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a value; messages that a tool wrote as one JSON text are taken apart."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value
        if value.startswith("[{"):
            with contextlib.suppress(ValueError, RecursionError):
                yield from _strings(json.loads(value))


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
