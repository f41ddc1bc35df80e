"""A line that is nearly JSON: what to do about the slip that people make most."""

from __future__ import annotations

import json
import re
from typing import Final

_BEFORE_END: Final = re.compile(r",\s*[}\]]")
_CURLY: Final = "\u201c\u201d\u201e\u201f"
_PYTHON: Final = ("None", "True", "False")


def fix_of(text: str) -> str | None:
    """Return what to do about a text that is no JSON; None where that is not seen.

    >>> fix_of('{"a": 1},'), fix_of('{"a": 1,}')
    ('Take out the comma after the row: JSON lines have none.', 'Take out the comma before the closing bracket.')
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return _fix_at(text, error.pos)
    except (ValueError, RecursionError):
        return None
    return None


def _fix_at(text: str, at: int) -> str | None:
    rest = text[at:]
    if rest.strip() == "," and at:
        return "Take out the comma after the row: JSON lines have none."
    if _BEFORE_END.match(rest) or (rest[:1] in ("}", "]") and text[:at].rstrip().endswith(",")):
        return "Take out the comma before the closing bracket."
    if rest.startswith(("'", *_PYTHON)):
        return (
            "Write the line with `json.dumps`: single quotes, None, True and False are Python's and not JSON."
        )
    if rest[:1] and rest[0] in _CURLY:
        return 'Write straight quotes (") in place of typographic ones.'
    if rest.lstrip().startswith(("//", "#", "/*")):
        return "Take out the comment: JSON has none."
    if at == 0 and any(separator in text for separator in "\t;,"):
        return "Write one JSON object a line; a table is read where its name ends in .csv or .tsv."
    return None
