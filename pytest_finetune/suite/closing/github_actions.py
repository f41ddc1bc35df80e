"""GitHub Actions: the record as step summary, step outputs and annotations, where the job asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pytest_finetune.record.model import Recorded
from pytest_finetune.record.views.github import error_annotations, outputs, step_summary

SUMMARY: Final = "GITHUB_STEP_SUMMARY"
OUTPUT: Final = "GITHUB_OUTPUT"


def publish(record: Recorded, directory: Path) -> list[str]:
    """Append to the files that the job names, and return a line for each that cannot be written."""
    return [
        *_append(SUMMARY, step_summary(record).splitlines()),
        *_append(OUTPUT, outputs(record, directory)),
    ]


def workflow_commands(record: Recorded) -> list[str]:
    """Return the workflow commands to print; none outside a job."""
    return error_annotations(record) if os.environ.get("GITHUB_ACTIONS") == "true" else []


def _append(variable: str, lines: Iterable[str]) -> list[str]:
    """Append lines to the file that `variable` names: other steps' commands write to it as well."""
    file = os.environ.get(variable)
    if not file:
        return []
    try:
        with Path(file).open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        return [f"{variable} names {file!r}, which cannot be written: {error.strerror or error}"]
    return []
