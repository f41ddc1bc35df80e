"""One arm's answer to one held-out row, as an evaluation rule sees it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Never

from pytest_finetune.data.call_formats import ToolCall
from pytest_finetune.data.strict_json import LONG_NUMBER, too_large
from pytest_finetune.data.tool_calls import read_calls
from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json, JsonTree


class NotJson(FinetuneError, ValueError):
    """The answer is not one strict JSON value."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its text, its length in tokens, the seconds it took, and whether the model stopped by itself.

    `thinking` is what stood in the block of thinking before it, None where there was none, and `thinking_tokens` its
    length; `raw` is all that the model wrote, with both.
    """

    text: str
    tokens: int = 0
    seconds: float = 0.0
    stopped: bool = True
    thinking: str | None = None
    thinking_tokens: int = 0
    raw: str = ""

    def __repr__(self) -> str:
        return f"<answer {self.text!r}>"

    @property
    def cut_while_thinking(self) -> bool:
        """Whether the token limit came while the model was thinking, so that there is no answer."""
        return self.thinking is not None and not self.stopped and not self.text.strip()

    def json(self) -> Any:
        """Return the answer as JSON; raise NotJson for prose around it, a repeated key, NaN, Infinity or 1e999.

        >>> Response(' {"priority": "high"}').json()
        {'priority': 'high'}
        >>> Response('Sure! {"priority": "high"}').json()
        Traceback (most recent call last):
        pytest_finetune.answering.response.NotJson: not JSON at character 0: 'Sure! {"priority": "high"}'
        """
        try:
            return json.loads(
                self.text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
            )
        except json.JSONDecodeError as error:
            raise NotJson(f"not JSON at character {error.pos}: {_short(self.text)}") from None
        except RecursionError:
            raise NotJson(f"not JSON: nested too deeply: {_short(self.text)}") from None
        except NotJson:
            raise
        except ValueError:  # int() refuses more than 4,300 digits
            raise NotJson(f"not strict JSON: {LONG_NUMBER}") from None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of tools that the answer makes, none of which is ever run; see `calls_of`."""
        return self.calls_of()

    def calls_of(self, tools: Sequence[Json] = ()) -> tuple[ToolCall, ...]:
        """Return the calls that the answer makes, held to the schemas of `tools`, those of the row it answers.

        A call that cannot be read or that breaks its schema says so in `malformed`.
        """
        return read_calls(self.text, tools)


_SHOWN: Final = 80


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _unique(pairs: list[tuple[str, object]]) -> JsonTree:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise NotJson(
            f"not strict JSON: the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice"
        )
    return found


def _no_constant(name: str) -> Never:
    raise NotJson(f"not strict JSON: {name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise NotJson(f"not strict JSON: {too_large(text)}")
    return number
