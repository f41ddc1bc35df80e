"""Rows to mix into a training against forgetting: other prompts than the task's, with the base's own answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.neutral import neutral_rows
from pytest_finetune.wording import counted, rough_percent

if TYPE_CHECKING:
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.experiment import Replay

SHIPPED: Final = Path(__file__).with_name("replay_prompts.jsonl")
"""Other prompts than those on which drift is measured: a training on these would teach to the test."""
NEUTRAL: Final = "neutral"


def replay_prompts(root: Path, replay: Replay) -> Rows:
    """Return the prompts that ship, or those of a file below `root`. Raises PromptsError."""
    if replay.prompts == NEUTRAL:
        return neutral_rows(root, shipped=SHIPPED)
    return neutral_rows(root, replay.prompts)


def wanted(taught: int, share: float) -> int:
    """Return how many rows beside those that are taught make up a share of all.

    >>> wanted(180, 0.1), wanted(3, 0.1)
    (20, 1)
    """
    return max(1, round(taught * share / (1 - share)))


def chosen(prompts: Rows, taught: int, share: float) -> Rows:
    """Return as many prompts as the share asks for, each once, spread evenly over the file and so over its kinds."""
    rows = min(wanted(taught, share), len(prompts))
    return prompts.only(prompts[i * len(prompts) // rows] for i in range(rows))


def with_answer(row: Row, answer: str) -> Row:
    """Return a prompt as the training row that teaches an answer to it."""
    if row.messages is None:
        return replace(row, output=answer)
    return replace(row, output=answer, messages=(*row.messages[:-1], {**row.messages[-1], "content": answer}))


def replay_findings(
    replay: Replay, prompts: Rows, measured: Rows | None, train: Sequence[Row], held_out: Sequence[Row]
) -> Iterator[Finding]:
    """Yield prompts by which something is measured or judged, and too few prompts for the share that is asked."""
    judged = {row.question_digest: "is held out" for row in held_out}
    drifted = {row.question_digest: "is one that drift is measured on" for row in measured or ()}
    known = judged | drifted
    for row in prompts:
        if row.question_digest in known:
            read = f"the prompt {known[row.question_digest]}: {row.input!r}"
            yield finding("replay/measured", read, file=row.file, line=row.line)
    asked = wanted(len(train), replay.share)
    if train and asked > len(prompts):
        reached = rough_percent(len(prompts) / (len(prompts) + len(train)))
        read = (
            f"{counted(len(prompts), 'prompt')}, each replayed once: {reached} of what is trained on, "
            f"{replay.share:.0%} need {asked:,}"
        )
        yield finding("replay/few-prompts", read, file=prompts.path)
