"""The record for GitHub Actions: step summary, error annotations, step outputs."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from pytest_finetune.record.headline import headline
from pytest_finetune.record.model import Recorded, RecordedRun
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.wording import one_line

MOST_ANNOTATIONS: Final = 10  # what GitHub shows for one type in one step
MOST_BYTES: Final = 100_000


def step_summary(record: Recorded) -> str:
    """Render the Markdown for GITHUB_STEP_SUMMARY: the note, decision first, under 100 kB."""
    note = decision_note(record)
    if len(note.encode("utf-8")) <= MOST_BYTES:
        return note
    lines: list[str] = []
    room = MOST_BYTES - 100
    for line in note.splitlines():
        room -= len(line.encode("utf-8")) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join([*lines, "", "Cut here; the whole note is decision.md beside the record.", ""])


def error_annotations(record: Recorded) -> list[str]:
    """Word what went wrong as workflow commands: verdicts other than keep, then findings by file and line."""
    run, found = RecordedRun.of(record), []
    for one in run.experiments:
        said = headline(one, run)
        if said.tone in ("warn", "bad"):
            found.append(command("error", f"{said.word}: {said.reason}", title=one.name or "experiment"))
    for finding in (finding for one in run.experiments for finding in one.findings):
        if finding.severity == "error" and finding.file:  # a charter's open question has no place
            place = {"file": finding.file, "line": str(finding.line or "")}
            said_so = f"{finding.read}; {finding.fix}"
            found.append(command("error", said_so, title=finding.rule, **place))
    return found[:MOST_ANNOTATIONS]


def command(name: str, message: str, **properties: str) -> str:
    """Word one workflow command; nothing in its message or properties can end it or start another."""
    given = ",".join(f"{key}={_property(value)}" for key, value in properties.items() if value)
    return f"::{name}{' ' if given else ''}{given}::{_data(message)}"


def _data(value: str) -> str:
    line = one_line(value, 2000)  # which has no line breaks
    return line.replace("%", "%25").replace("::", ":%3A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def outputs(record: Recorded, record_dir: str | PurePath) -> list[str]:
    """Word the lines for GITHUB_OUTPUT: `decision`, `adapter_digest`, `record`.

    With several experiments `decision` is keep only when every one is, and there is no single adapter digest.
    """
    runs = RecordedRun.of(record).experiments
    verdicts = {run.decision.verdict or "none" for run in runs}
    decision = next((word for word in ("discard", "iterate", "none", "keep") if word in verdicts), "none")
    digest = runs[0].training.adapter_sha256 if len(runs) == 1 else ""
    where = one_line(PurePath(record_dir) / "record.json")
    return [f"decision={one_line(decision)}", f"adapter_digest={one_line(digest)}", f"record={where}"]
