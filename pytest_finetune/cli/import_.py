"""``pytest-finetune import``: rows as people have them become rows to train on, held-out rows and a draft contract."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.writing import write_new
from pytest_finetune.data.drafting import Answers, contract_text, look_at
from pytest_finetune.data.findings import Finding, Findings
from pytest_finetune.data.rows import Row, stream_rows
from pytest_finetune.data.shapes import NAMES
from pytest_finetune.data.splitting import Split, split_rows
from pytest_finetune.errors import lacking
from pytest_finetune.wording import counted, one_line, percent

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
_SHOWN_HUB: Final = "hf://datasets/"
_HUB: Final = str(Path(_SHOWN_HUB))
"""How a path of the hub begins once it is a Path, which knows no double slash."""


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
        type=Path,
        metavar="FILE",
        help="files, a folder that `datasets` saved, or hf://datasets/ORG/NAME/SPLIT",
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
    """Import the files; CommandError when no row can be used."""
    columns = {**_columns(args.column), **({"group": args.group} if args.group else {})}
    found = _read(args.files, columns)
    if len(found.rows) < 2:
        raise CommandError("\n".join(["there are no rows to use:", *_left_out(found)]))
    answers = look_at([row.output for row in found.rows], args.label)
    if args.label and answers.label != args.label:
        raise CommandError(
            f"--label {args.label}: the answers hold no such field with few values that repeat"
        )
    labels = [answers.of(at, row.output) for at, row in enumerate(found.rows)]
    split = split_rows(found.rows, args.split, labels)
    if not split.held_out:
        raise CommandError(
            "no row can be held out: all belong together; name a larger --split, or another --group"
        )
    written, existing = _write(args.to, split, args.label)
    told = [*_lines(found, answers, split, args.split), "", *written, *existing]
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


def _read(files: Sequence[Path], columns: Mapping[str, str]) -> Found:
    rows: list[Row] = []
    found: list[Finding] = []
    with TemporaryDirectory() as scratch:
        for file in files:
            named = _is_data_set(file)
            root, relative = _exported(file, Path(scratch)) if named else (Path(), str(file))
            try:
                for item in stream_rows(root, relative, columns=columns):
                    if isinstance(item, Row):
                        rows.append(item)
                    else:
                        found.append(item)
            except OSError as error:
                raise CommandError(f"{file}: cannot be read: {error.strerror or error}") from None
    blank = [row for row in rows if not row.output.strip() or not (row.instruction + row.input).strip()]
    empty = {id(row) for row in blank}
    said = [row for row in rows if id(row) not in empty]
    first = {row.digest: row for row in reversed(said)}
    kept = [row for row in said if first[row.digest] is row]
    findings = Findings(found)
    return Found(kept, findings, blank, [row for row in said if first[row.digest] is not row], findings.notes)


def _is_data_set(file: Path) -> bool:
    return file.is_dir() or str(file).startswith(_HUB)


def _exported(place: Path, scratch: Path) -> tuple[Path, str]:
    """Write the rows of a data set that `datasets` knows as JSON lines, numbers of classes as their names."""
    if absent := lacking("datasets"):
        raise CommandError(f"{place}: a data set is read with {absent}")
    rows = _saved(place) if place.is_dir() else _cached(str(place).removeprefix(_HUB).lstrip("/"))
    named = {name: kind for name, kind in rows.features.items() if hasattr(kind, "int2str")}
    file = scratch / f"{place.name}.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            value = {name: named[name].int2str(cell) if name in named else cell for name, cell in row.items()}
            out.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    return scratch, file.name


def _saved(folder: Path) -> Any:
    """Read a folder that ``save_to_disk`` wrote."""
    import datasets

    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(sorted(part.name for part in folder.iterdir() if part.is_dir()))
        raise CommandError(f"{folder}: a data set with the splits {splits}: name one of these folders")
    try:
        return datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise CommandError(f"{folder}: no data set that `datasets` saved: {one_line(error)}") from None


def _cached(place: str) -> Any:
    """Read ``org/name/split`` of the hub, from its cache where it is there."""
    import datasets

    name, _, split = place.rpartition("/")
    if not name.strip("/") or not split:
        raise CommandError(
            f"{_SHOWN_HUB}{place}: write {_SHOWN_HUB}ORG/NAME/SPLIT, as in {_SHOWN_HUB}org/name/train"
        )
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # what its readers, the network and a name that is none let through
        raise CommandError(f"{_SHOWN_HUB}{place} cannot be read: {one_line(error)[:300]}") from None


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
    if split.together:
        bundles = counted(split.together, "bundle")
        yield f"  {bundles} of rows that belong together (group, near duplicate), each on one side"
    yield from _left_out(found)


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
        fix = (
            "name your columns: --column prompt=THEIRS --column completion=THEIRS"
            if "found the keys" in read
            else ones[0].fix
        )
        first = "" if len(ones) == 1 else f"{counted(len(ones), 'row')}, first "
        yield f"  left out: {first}{ones[0].place}: {read} ({rule})"
        yield f"    {fix}"
    if len(alike) > _SHOWN:
        yield f"  and {len(alike) - _SHOWN} more kinds"
