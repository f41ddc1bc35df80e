"""Remarks that only some runs have, each a sentence without its subject: the same in the terminal and the note."""

from __future__ import annotations

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.wording import counted, figure, one_line


def reused(training: Json) -> str:
    """Name what differs from the environment that an adapter comes from; empty where it is this one."""
    if training.get("reuse") != "semantic":
        return ""
    differs = [
        f"{one_line(name.rpartition('.')[2])} {one_line(pair[0])} -> {one_line(pair[1])}"
        for name, pair in sorted(reading.part(training, "reused_from").items())
        if isinstance(pair, list | tuple) and len(pair) == 2
    ]
    return "from another environment" + (f": {', '.join(differs)}" if differs else "")


def retrained(training: Json) -> str:
    """Say what a retraining changed; empty where there was nothing to compare with."""
    found = reading.part(training, "retrained")
    if not found:
        return ""
    if found.get("same_weights"):
        return "the same weights as before, byte for byte"
    largest = reading.number(found, "largest_difference")
    apart = f"differ by at most {largest:.2g}" if largest is not None else "have other names or shapes"
    changed, of = reading.number(found, "answers_changed"), reading.number(found, "answers")
    answers = "old answers not stored" if changed is None else f"{changed} of {of} answers changed"
    return f"weights {apart}; {answers}"


def noise(experiment: Json) -> str:
    """Say how many rows the base scored otherwise when it was asked again; empty where it was asked once."""
    runs = reading.part(experiment, "noise")
    if not runs:
        return ""
    rows = {
        row for name in reading.rules(experiment) for row in noisy(reading.part(experiment, "rules", name))
    }
    scored = f"{counted(len(rows), 'row')} scored otherwise" if rows else "every score stayed the same"
    return f"asked {counted(len(runs) + 1, 'time')}, {scored}"


def noisy(rule: Json) -> list[str]:
    """Name the rows whose score differs between the runs of the base."""
    first = reading.listed(reading.part(rule, "scores"), "baseline")
    runs = [first, *(list(run) for run in reading.listed(rule, "noise") if isinstance(run, list | tuple))]
    rows = [str(row) for row in reading.listed(rule, "rows")]
    return [
        row
        for place, row in enumerate(rows)
        if len({run[place] if place < len(run) else None for run in runs}) > 1
    ]


def best_prompt(experiment: Json) -> str:
    """Say which of the hand-written prompts competed; empty where none was written."""
    found = reading.part(experiment, "prompt_candidates")
    tried, best = reading.parts(found, "tried"), reading.whole(found, "best")
    if best is None or not 0 <= best < len(tried):
        return ""
    passed, total = (figure(reading.number(tried[best], key), 6) for key in ("passed", "total"))
    return f"candidate {best + 1} of {len(tried)} competed, it passed {passed} of {total} training rows"
