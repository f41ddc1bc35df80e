"""What an engine or a job prints is foreign text: secrets in it are masked before anybody keeps or shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from pytest_finetune.data.detectors import SECRETS, find
from pytest_finetune.wording import visible

_NAMED: Final = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_GIVEN: Final = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key)(?![a-z])[\w-]*[\"']?\s*[=:]\s*[\"']?)"
    r"([^\s\"',;]{4,})"
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_SHORTEST: Final = 6  # a value like "1" or "true" would be masked everywhere


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return text without secrets: tokens that announce themselves, what is given to a telling name, our own variables.

    >>> masked("export API_TOKEN=abcd1234efgh and go", {})
    'export API_TOKEN=[masked] and go'
    >>> masked("it printed hunter2!!", {"DB_PASSWORD": "hunter2!!"})
    'it printed [DB_PASSWORD]'
    """
    for name, value in environment.items():
        if len(value) >= _SHORTEST and _NAMED.search(name):
            text = text.replace(value, f"[{name}]")
    parts, position = [], 0
    for hit in find(text):
        if hit.rule in SECRETS:
            parts += [text[position : hit.start], f"[{hit.name}]"]
            position = hit.end
    text = "".join([*parts, text[position:]])
    text = _GIVEN.sub(lambda found: found[0] if found[2].startswith("[") else f"{found[1]}[masked]", text)
    return _BEARER.sub(lambda found: f"{found[1]} [masked]", text)


def end_of(text: str, environment: Mapping[str, str] = os.environ, *, lines: int = 20) -> list[str]:
    """Return the last lines of an output as they may be shown: masked, no control characters, none too long."""
    last = [line.rstrip() for line in masked(text, environment).splitlines() if line.strip()][-lines:]
    return [visible(line[:300]) for line in last]
