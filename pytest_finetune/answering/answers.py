"""Raw answers on disk: one JSON object a line, the text exactly as the model gave it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json, JsonTree

ANSWERS_FILE: Final = "answers.jsonl"
"""The file of answers in their entry in the store."""


class AnswersError(FinetuneError, ValueError):
    """The file does not hold answers; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to one row.

    `prompt` is the exact text sent and `response` the decoded completion with nothing stripped; `tokens` were
    generated (the stop token not counted) in `seconds`, this answer's share of its batch. `stopped` says that
    the model ended by itself, not at the token limit. Of a model that thinks, or whose template writes more than the
    answer, `response` is the answer alone, `raw` all that was written, `thinking` what stood in its block, and
    `thinking_tokens` of `tokens` went there. `tools` are those that were offered beside a prompt of messages; where the
    prompt is text, they stand in it.
    """

    id: str
    line: int
    prompt: str
    response: str
    tokens: int
    seconds: float
    stopped: bool
    thinking: str | None = None
    thinking_tokens: int = 0
    raw: str | None = None
    tools: Sequence[Json] = ()

    @property
    def written(self) -> str:
        """All that the model wrote."""
        return self.response if self.raw is None else self.raw

    @property
    def cut_while_thinking(self) -> bool:
        """Whether the token limit came before the answer did."""
        return self.thinking is not None and not self.stopped and not self.response.strip()


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write the answers as JSONL, in the order given."""
    lines = [json.dumps(answer_json(answer), ensure_ascii=False) + "\n" for answer in answers]
    # A model can end inside a character pair; such text must survive the round trip, so it is escaped.
    path.write_text("".join(map(_encodable, lines)), encoding="utf-8", newline="\n")


def read_answers(path: Path) -> list[Answer]:
    """Return the answers of a file that `write_answers` wrote; AnswersError for anything else."""
    text = path.read_bytes().decode("utf-8", errors="strict")
    # Only a newline ends a line: splitlines would also break at U+2028, which JSON leaves as it is.
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n") if text else []
    return [_read(line, number, path) for number, line in enumerate(lines, 1)]


def answer_json(answer: Answer) -> JsonTree:
    """Return the answer as JSON; what only a model that thinks or a row with tools has stands there only for one."""
    tree = {name: getattr(answer, name) for name in (*_TYPES, *_FURTHER)}
    return {name: value for name, value in tree.items() if name in _TYPES or value}


def _encodable(line: str) -> str:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(json.loads(line)) + "\n"
    return line


_TYPES: Final[JsonTree] = {
    "id": str,
    "line": int,
    "prompt": str,
    "response": str,
    "tokens": int,
    "seconds": float | int,
    "stopped": bool,
}
_FURTHER: Final[JsonTree] = {"thinking": str | None, "thinking_tokens": int, "raw": str | None, "tools": list}


def _read(line: str, number: int, path: Path) -> Answer:
    try:
        found: JsonTree = json.loads(line)
        values = {name: found[name] for name in _TYPES}
        values |= {name: found[name] for name in _FURTHER if name in found}
    except (ValueError, KeyError, TypeError) as error:
        raise AnswersError(f"{path}:{number}: no answer: {error!r}") from None
    for name, kind in {**_TYPES, **_FURTHER}.items():
        if name in values and not isinstance(values[name], kind):
            raise AnswersError(f"{path}:{number}: {name} is {values[name]!r}")
    return Answer(**values)
