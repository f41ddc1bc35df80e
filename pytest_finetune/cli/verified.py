"""What a verification found: the pieces, and the lines and the JSON tree that tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.bundle.shipped import MODEL, judged_file
from pytest_finetune.cli.answer import Answer
from pytest_finetune.wording import counted, one_line
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle, Problem

OUTCOMES: Final = "that the outcomes follow from the answers"
AUTHOR: Final = "who made it"
_SHOWN: Final = 20


def answers_doubt(bundle: Bundle) -> str:
    """Say what only `--run` can settle."""
    kept = "model" if bundle.whole_model else "adapter"
    return f"that {f'the {kept}' if judged_file(bundle.experiment) is None else MODEL} gives these answers"


@dataclass(frozen=True, slots=True)
class Part:
    """What one further check found: `problems`, or in words what was checked, and what that proves.

    `settles` is what a verification leaves open without this check; `leaves` stays open with it.
    """

    name: str
    settles: str
    words: str = ""
    problems: Sequence[Problem] = ()
    proves: Sequence[str] = ()
    leaves: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: `problems`, what was checked, what this proves and what it leaves open."""

    problems: Sequence[Problem]
    checked: Sequence[tuple[str, str]]
    proves: Sequence[str] = ()
    leaves: Sequence[str] = ()
    notes: Sequence[str] = ()


def with_parts(found: Findings, parts: Sequence[Part]) -> Findings:
    """Return the findings with those of further checks; what a check settles is open no more."""
    open_still = {part.settles: part.leaves for part in parts}
    return Findings(
        problems=[problem for part in parts for problem in part.problems],
        checked=[*found.checked, *((part.name, part.words) for part in parts if not part.problems)],
        proves=[*found.proves, *(said for part in parts for said in part.proves)],
        leaves=[left for doubt in found.leaves for left in open_still.get(doubt, (doubt,))],
        notes=[note for part in parts for note in part.notes],
    )


def lines(folder: Path, found: Findings, bundle: Bundle) -> Iterator[str]:
    """Tell the findings to a reader; the last line says what they prove."""
    if found.problems:
        yield f"NOT VERIFIED: {folder}: {counted(len(found.problems), 'thing')} not as promoted"
        for problem in found.problems[:_SHOWN]:
            yield f"  {one_line(problem, 600)}"
        if len(found.problems) > _SHOWN:
            yield f"  and {len(found.problems) - _SHOWN} more (--json lists them)"
        yield from (f"  note: {one_line(note, 600)}" for note in found.notes)
        return
    yield f"verified: {folder}"
    width = max(len(name) for name, _ in found.checked)
    yield f"  {'task'.ljust(width)}  {one_line(bundle.experiment['task'])}"
    kept, of = ("model", "trained in full from") if bundle.whole_model else ("adapter", "on")
    yield f"  {kept.ljust(width)}  {bundle.manifest.adapter_sha256[:12]} {of} {one_line(bundle.manifest.base_model)}"
    file = judged_file(bundle.experiment)
    if file is not None:
        said = f"{MODEL}, {file['sha256'][:12]}: the decision was made on its answers"
        yield f"  {'gguf'.ljust(width)}  {one_line(said)}"
    for name, words in found.checked:
        yield f"  {name.ljust(width)}  {words}"
    if not bundle.same_version:
        written = one_line(bundle.record.get("plugin_version"))
        yield f"  {'texts'.ljust(width)}  not compared: version {written} wrote them; numbers and verdicts were"
    yield from (f"  {'note'.ljust(width)}  {one_line(note, 600)}" for note in found.notes)
    leaves = f"; it does not prove {', '.join(found.leaves)}" if found.leaves else ""
    yield f"this proves that {', '.join(found.proves)}{leaves}"


def tree(folder: Path, found: Findings, bundle: Bundle) -> JsonTree:
    """Return the findings for programs."""
    return {
        "bundle": str(folder),
        "verified": not found.problems,
        "manifest": bundle.manifest.digest,
        "adapter_sha256": bundle.manifest.adapter_sha256,
        "problems": [problem._asdict() for problem in found.problems],
        "checked": dict(found.checked),
        "proves": list(found.proves),
        "does_not_prove": list(found.leaves),
        "notes": list(found.notes),
    }


def refused(folder: Path, why: str) -> Answer:
    """Return the answer for a folder whose manifest is not to be trusted."""
    told = {"bundle": str(folder), "verified": False, "problems": [{"place": "bundle", "what": why}]}
    return Answer([f"NOT VERIFIED: {folder}", f"  {one_line(why, 600)}"], told, yes=False)
