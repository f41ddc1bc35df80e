"""Every data rule, once, read from ``rules.toml``, and the findings that are made under them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, NamedTuple

from pytest_finetune.data.detectors import redact
from pytest_finetune.data.findings import Finding, Severity

READ_LIMIT: Final = 200


class Rule(NamedTuple):
    """What is said about each finding of a rule."""

    severity: Severity
    why: str
    fix: str


def _read() -> dict[str, Rule]:
    tree = tomllib.loads((Path(__file__).parent / "rules.toml").read_text(encoding="utf-8"))
    return {name: Rule(**rule) for name, rule in tree.items()}


RULES: Final = _read()
FROM_THE_STORE: Final = frozenset({"leak/judged", "leak/was-held-out"})
"""Rules that only a session can check, by the looks of its store: another machine may find nothing."""


def finding(
    rule: str,
    read: str,
    *,
    file: str | None = None,
    line: int | None = None,
    digest: str | None = None,
    fix: str | None = None,
) -> Finding:
    """Make a finding of a known rule; what is private in `read` is masked before it is shortened."""
    known = RULES[rule]
    return Finding(rule, known.severity, shown(read), known.why, fix or known.fix, file, line, digest)


def shown(read: str) -> str:
    """Return what was read as a person may see it: masked, printable, and not too long."""
    text = printable(redact(read))
    return text if len(text) <= READ_LIMIT else f"{text[: READ_LIMIT - 3]}..."


def quoted(text: str, limit: int = 80) -> str:
    """Return the text in quotes, masked first and shortened then, so that no half of a secret is left."""
    masked = redact(text)
    return repr(masked if len(masked) <= limit else f"{masked[: limit - 3]}...")


def printable(text: str) -> str:
    """Escape what a terminal would act on or could not encode."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
