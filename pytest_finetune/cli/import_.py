"""``pytest-finetune import``: rows as people have them become rows to train on, held-out rows and a draft contract."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.writing import write_new
from pytest_finetune.data.checks.labels import spelt_alike
from pytest_finetune.data.data_sets import DataSetError, fetch_data_set, is_here
from pytest_finetune.data.drafting import Answers, contract_text, look_at
from pytest_finetune.data.findings import Finding, Findings
from pytest_finetune.data.rows import Row, stream_rows
from pytest_finetune.data.shapes import NAMES
from pytest_finetune.data.splitting import Split, split_rows
from pytest_finetune.experiment.data_sets import SPELLING, naming_problem
from pytest_finetune.wording import counted, percent

HELP: Final = (
    "turn a CSV, JSON, Parquet or ShareGPT file into training rows, held-out rows and a draft contract"
)
DESCRIPTION: Final = (
    "Read files of rows, leave out what cannot be used and what stands there twice, keep a share of each label "
    "apart, and write data/train.jsonl, eval/check.jsonl and a draft of data/contract.yaml. A file that exists is "
    "left as it is."
)
TRAIN, HELD_OUT, CONTRACT = "data/train.jsonl", "eval/check.jsonl", "data/contract.yaml"
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be imported: the files, the project, the share that is held out, and which columns are which."""

    files: Sequence[str]
    to: Path
    split: float = 0.2
    group: str | None = None
    label: str | None = None
    columns: Sequence[str] = ()


class Found(NamedTuple):
    """The rows that can be used, what was left out (findings, rows that say nothing, rows that stand twice), notes."""

    rows: list[Row]
    findings: list[Finding]
    blank: list[Row]
    repeated: list[Row]
    notes: tuple[Finding, ...]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=f"files, a folder that `datasets` saved, or {SPELLING}",
    )
    command.add_argument(
        "--to", type=Path, default=Path(), metavar="DIR", help="the project (default: the current folder)"
    )
    command.add_argument(
        "--split",
        type=arguments.share,
        default=0.2,
        metavar="SHARE",
        help="how much is held out (default: 0.2)",
    )
    command.add_argument("--group", metavar="COLUMN", help="rows with the same value go to one side")
    command.add_argument("--label", metavar="COLUMN", help="the field of the answers that holds the label")
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="which column of the files is which of ours (repeatable): --column input=body",
    )
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Import the files that the arguments name."""
    return bring(Request(args.files, args.to, args.split, args.group, args.label, args.column))


def bring(asked: Request) -> Answer:
    """Import the files; CommandError when no row can be used."""
    columns = {**_columns(asked.columns), **({"group": asked.group} if asked.group else {})}
    found = _read(asked.files, columns)
    if len(found.rows) < 2:
        left = [*_left_out(found)] or ["  add rows, or name the right file"]
        first = "there is 1 row to use, which cannot be split:" if found.rows else "there are no rows to use:"
        raise CommandError("\n".join([first, *left]))
    answers = look_at([row.output for row in found.rows], asked.label)
    if asked.label and answers.label != asked.label:
        raise CommandError(
            f"--label {asked.label}: the answers hold no such field with few values that repeat"
        )
    labels = [answers.of(at, row.output) for at, row in enumerate(found.rows)]
    split = split_rows(found.rows, asked.split, labels)
    if not split.held_out:
        raise CommandError(
            "no row can be held out: all belong together; name a larger --split, or another --group"
        )
    written, existing = _write(asked.to, split, asked.label)
    told = [*_lines(found, answers, split, asked.split), "", *written, *existing]
    tree = {
        "train": len(split.train),
        "held_out": len(split.held_out),
        "left_out": len(found.findings),
        "repeated": len(found.repeated),
        "labels": dict(Counter(label for label in labels if label is not None)),
        "written": [line.split()[1] for line in written],
        "existing": [line.split()[1] for line in existing],
    }
    return Answer(told, tree, yes=bool(written))


def _columns(assignments: Sequence[str]) -> dict[str, str]:
    columns = {}
    for word in assignments:
        ours, equals, theirs = word.partition("=")
        if not equals or ours not in NAMES or not theirs:
            raise CommandError(f"--column {word}: write OURS=THEIRS; ours are {', '.join(NAMES)}")
        columns[ours] = theirs
    return columns


def _read(files: Sequence[str], columns: Mapping[str, str]) -> Found:
    rows: list[Row] = []
    found: list[Finding] = []
    for file in files:
        if (problem := naming_problem(Path(file), file)) is not None:
            raise CommandError(f"{file}: {problem}")
        try:
            if not is_here(file):
                fetch_data_set(file)
            for item in stream_rows(Path(), file, columns=columns):
                if isinstance(item, Row):
                    rows.append(item)
                else:
                    found.append(item)
        except DataSetError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"{file}: cannot be read: {error.strerror or error}") from None
    blank = [row for row in rows if not row.output.strip() or not (row.instruction + row.input).strip()]
    empty = {id(row) for row in blank}
    said = [row for row in rows if id(row) not in empty]
    first = {row.digest: row for row in reversed(said)}
    kept = [row for row in said if first[row.digest] is row]
    findings = Findings(found)
    return Found(kept, findings, blank, [row for row in said if first[row.digest] is not row], findings.notes)


def _write(to: Path, split: Split, label: str | None) -> tuple[list[str], list[str]]:
    """Write the three files; return a line for each that was written, and for each that is there already."""
    # The contract describes both files together, in the order in which its draft reads them.
    both = look_at([row.output for row in (*split.train, *split.held_out)], label)
    texts = {
        TRAIN: "".join(_line(row, "output") for row in split.train),
        HELD_OUT: "".join(_line(row, "expected") for row in split.held_out),
        CONTRACT: contract_text(to.resolve().name, split.train, split.held_out, both),
    }
    written: list[str] = []
    existing: list[str] = []
    for name, text in texts.items():
        try:
            fresh = write_new(to / name, text.encode())
        except OSError as error:
            raise CommandError(f"cannot write {str(to / name)!r}: {error.strerror or error}") from None
        (written if fresh else existing).append(f"{'wrote  ' if fresh else 'exists '} {name}")
    return written, existing


def _line(row: Row, answer: str) -> str:
    """Write a row in one of our shapes."""
    value: dict[str, object]
    if row.messages is not None:
        value = {"messages": list(row.messages)}
    elif row.shape == "prompt":
        value = {"prompt": row.input, "completion": row.output}
    else:
        value = {"instruction": row.instruction, "input": row.input, answer: row.output}
    if row.tools:
        value["tools"] = list(row.tools)
    more = {"tags": list(row.tags) or None, "group": row.group, "id": row.given_id}
    value.update({name: said for name, said in more.items() if said is not None})
    return json.dumps(value, ensure_ascii=False) + "\n"


def _lines(found: Found, answers: Answers, split: Split, asked: float) -> Iterator[str]:
    rows = len(found.rows)
    yield (
        f"{counted(rows, 'row')}: {len(split.train)} to train on, {len(split.held_out)} held out "
        f"({percent(len(split.held_out) / rows)}, {percent(asked)} asked)"
    )
    if answers.values:
        what = f"in the field {answers.label!r}" if answers.label else "as answers"
        yield f"  {counted(len(answers.values), 'label')} {what}, each held out in its share"
    for group in spelt_alike(answers.values):
        alike = " and ".join(map(repr, group))
        yield f"  noted: the labels {alike} differ in spelling alone: write them in one way and import again"
    if split.together:
        bundles = counted(split.together, "bundle")
        yield f"  {bundles} of rows that belong together (group, near duplicate), each on one side"
    yield from _left_out(found)


def _columns_to_name(read: str) -> str:
    """Say which columns are to be named where a row lacks what we look for; empty where that is not the trouble."""
    if "found the keys" not in read:
        return ""
    ours = ("output",) if "output nor expected" in read else ("prompt", "completion")
    named = " ".join(f"--column {name}=THEIRS" for name in ours)
    return f"name your columns: {named} (in quotes where a name has a space)"


def _left_out(found: Found) -> Iterator[str]:
    for note in found.notes:
        yield f"  noted: {note.place}: {note.read}"
    if found.blank:
        empty = counted(len(found.blank), "row")
        yield f"  left out: {empty} with an empty question or answer, first {found.blank[0].place}"
        yield "    is it the right column? --column maps ours to yours"
    if found.repeated:
        twice = counted(len(found.repeated), "row")
        yield f"  left out: {twice} that stand there twice, first {found.repeated[0].place}"
    alike: dict[tuple[str, str], list[Finding]] = {}
    for one in found.findings:
        alike.setdefault((one.rule, one.read), []).append(one)
    for (rule, read), ones in list(alike.items())[:_SHOWN]:
        fix = _columns_to_name(read) or ones[0].fix
        first = "" if len(ones) == 1 else f"{counted(len(ones), 'row')}, first "
        yield f"  left out: {first}{ones[0].place}: {read} ({rule})"
        yield f"    {fix}"
    if len(alike) > _SHOWN:
        yield f"  and {len(alike) - _SHOWN} more kinds"
