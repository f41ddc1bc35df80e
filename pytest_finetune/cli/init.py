"""``pytest-finetune init``: a small project to own, file by file, never over a file that is there."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from pytest_finetune.cli import import_, tasks
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.writing import write_new
from pytest_finetune.data.contract import Contract, ContractError
from pytest_finetune.data.contract import schema as contract_schema
from pytest_finetune.experiment.records import schema as experiment_schema

HELP: Final = "write a project to own: experiment, contract, sample rows and four short test files"
DESCRIPTION: Final = (
    "Write the files of a small project. A file that exists is left as it is, and named. Where `import` has drafted a "
    "contract, the rules and the experiment are written for it."
)
SUFFIX: Final = ".starter"
_SCHEMAS: Final = ".finetune-schemas"
_CONFIGURATION: Final = "pytest.ini"
_CONFIGURED_BY: Final = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)
_NEXT: Final = (
    "next, in this order:",
    "  finetune.yaml     answer the charter's open questions, choose the base model",
    "  data/, eval/      put your rows in place of the samples, then raise the counts in data/contract.yaml",
    "  pytest            checks charter, rows and memory; trains nothing",
    "  pytest-finetune power     which gain the held-out file can show",
    "  pytest --finetune         trains, judges and writes the record",
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to (default: the current folder)",
    )
    command.add_argument(
        "--task",
        choices=tuple(tasks.TASKS),
        default=tasks.DEFAULT,
        help=f"what is taught, for which samples and rules are written (default: {tasks.DEFAULT})",
    )
    command.add_argument(
        "--from",
        dest="source",
        metavar="FILE",
        help="rows of yours, brought in as `import FILE` does",
    )
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="with --from: which column of it is which of ours (repeatable)",
    )


def run(args: argparse.Namespace) -> Answer:
    """Write what is missing."""
    folder: Path = args.folder
    written, existing = [], []
    brought = _brought(args)
    contract = _imported(folder)
    configured = next((name for name in _CONFIGURED_BY if (folder / name).exists()), None)
    try:
        for relative, source in starter_files():
            if relative == _CONFIGURATION and configured is not None:
                existing.append(f"{configured} (pytest's settings stay there)")
                continue
            text = _suited(relative, source, contract, folder.resolve().name, args.task)
            if write_new(folder / relative, text.encode()):
                written.append(relative)
            else:
                existing.append(relative)
        for relative, schema in _schemas():
            if write_new(folder / relative, schema.encode()):
                written.append(relative)
    except OSError as error:
        place = error.filename or folder
        raise CommandError(f"cannot write {str(place)!r}: {error.strerror or error}") from None
    lines = [
        *brought,
        *(f"wrote   {name}" for name in written),
        *(f"exists  {name}" for name in existing),
        "",
    ]
    lines += [line for line in _NEXT if contract is None or not line.startswith("  data/")]
    return Answer(lines, {"folder": str(folder), "written": written, "existing": existing})


def starter_files() -> Iterator[tuple[str, Traversable]]:
    """Yield the path that each file of the starter project gets, and where its text stands in the package."""
    yield from _walk(files("pytest_finetune.cli") / "starter", "")


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for child in sorted(folder.iterdir(), key=lambda found: found.name):
        if child.is_dir():
            yield from _walk(child, f"{prefix}{child.name}/")
        elif child.name.endswith(SUFFIX):
            yield prefix + child.name.removesuffix(SUFFIX), child


def _brought(args: argparse.Namespace) -> list[str]:
    """Import the rows of ``--from``, and return what is told of it."""
    if args.source is None:
        return []
    return [*import_.bring(import_.Request((args.source,), args.folder, columns=args.column)).lines, ""]


def _schemas() -> Iterator[tuple[str, str]]:
    """Yield the schemas that an editor reads, where the first line of each YAML file says that they are."""
    for name, schema in (("experiment", experiment_schema()), ("contract", contract_schema())):
        yield f"{_SCHEMAS}/{name}.schema.json", json.dumps(schema, indent=1) + "\n"


def _imported(folder: Path) -> Contract | None:
    """Return the contract that stands there already; None where there is none, or none that can be read."""
    try:
        return Contract.load(folder.resolve(), "data/contract.yaml")
    except ContractError:
        return None


def _suited(relative: str, source: Traversable, contract: Contract | None, folder: str, kind: str) -> str:
    """Return a file of the starter, written for the rows that are there already, else for the kind of task."""
    text = source.read_text("utf-8")
    if contract is None:
        return tasks.suited(relative, text, kind)
    task = folder
    if relative == "tests/test_rules.py":
        return _RULES.format(**_judged(contract))
    if relative == "tests/test_decision.py":
        return text.replace('"intent"', f'"{_judged(contract)["name"]}"')
    if relative == "finetune.yaml":
        line = f"task: {json.dumps(task, ensure_ascii=False)}"
        named = re.sub(r"^task: .*", lambda _: line, text, flags=re.M)
        return re.sub(
            r"^(  behaviour:).*",
            r"\1                          # what is taught, in one sentence",
            named,
            flags=re.M,
        )
    return text


def _judged(contract: Contract) -> dict[str, str]:
    """Return name and test of the primary rule: the label where the answers have one, else the whole answer."""
    field = contract.labels.field if contract.labels else None
    if field is not None:
        name = re.sub(r"\W", "_", field)
        return {"name": name, "right": f"response.json()[{field!r}] == example.expected_json()[{field!r}]"}
    if contract.output_format == "json":
        return {"name": "answer", "right": "response.json() == example.expected_json()"}
    return {"name": "answer", "right": "response.text.strip() == example.expected.strip()"}


_RULES: Final = '''\
"""The evaluation: each rule is written once and runs on every held-out row and every arm."""

import pytest


@pytest.mark.eval_rule(min_rate=0.95)
def test_keeps_the_contract(response, contract):
    assert contract.problems_of(response.text) == []


# A gain says that the adapter is better than what there was; min_rate, its own floor, that it is good enough to use.
# Where several answers are right, write what all of them have, or ask a judge (pytest_finetune.rules).
@pytest.mark.eval_rule(primary=True, min_gain=0.10, min_rate=0.70)
def test_{name}(response, example):
    assert {right}
'''
