"""A prompt template as it is written in the experiment file: what keeps it from showing the model a row."""

from __future__ import annotations

import re
from typing import Final

from pytest_finetune.wording import nearest

_FIELDS: Final = ("instruction", "input")
_DOUBLED: Final = re.compile(r"\{\{ *(instruction|input) *\}\}")
_PLACE: Final = re.compile(r"\{ *(\w+) *\}")
_LIKE_CHAT: Final = ("chat", "chatml", "default", "auto", "tokenizer")
_A_FILE: Final = re.compile(r"[\w./\\-]+\.\w{1,6}")


def template_mistake(template: str) -> str | None:
    """Return why no row can be asked through this text, or not as its author means; None where one can.

    >>> template_mistake("Ticket: {inptu}")
    "found 'Ticket: {inptu}', which shows no {input}: the model would answer every row alike; did you mean {input}?"
    """
    shown = template.replace("{{input}}", "")
    if "{input}" not in shown:
        why = "which shows no {input}: the model would answer every row alike"
        return f"found {template!r}, {why}{_meant(template)}"
    for word in _PLACE.findall(template):
        if word == "output":
            return f"found {template!r}: take {{output}} out; the answer follows the template by itself"
        if word not in _FIELDS and (near := _near(word)):
            only = "only {instruction} and {input} are replaced"
            return f"found {template!r}, where {{{word}}} stays as it is: {only}; did you mean {{{near}}}?"
    return None


def _meant(template: str) -> str:
    if _DOUBLED.search(template):
        return "; write single braces without spaces: {input}"
    if any(_near(word) == "input" for word in _PLACE.findall(template)):
        return "; did you mean {input}?"
    bare = template.strip(" '\"\u201c\u201d\u201e").lower()
    if bare in _LIKE_CHAT:
        return "; did you mean chat, the chat template of the base?"
    return "; write the text itself, and no file" if _A_FILE.fullmatch(template) else ""


def _near(word: str) -> str | None:
    return nearest(word.lower(), _FIELDS, cutoff=0.75)
