"""Every block of code on a page is code: it can be read, knows its names, and calls what there is."""

from __future__ import annotations

import ast
import builtins
import contextlib
import doctest
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune import plugin
from pytest_finetune.cli.entry import parser
from pytest_finetune.data.contract import schema as contract_schema
from pytest_finetune.experiment.records import schema as experiment_schema
from pytest_finetune.yamlfile import check, load_yaml, schema_problems

ROOT = Path(__file__).parents[2]
AT_THE_TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")]
PAGES = sorted({*AT_THE_TOP, *(ROOT / "docs").rglob("*.md"), *ROOT.glob("ex*/**/README.md")})
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
# What an experiment needs besides the keys that a page shows.
LEAST: dict[str, Any] = {
    "base_model": "m",
    "peft_method": "lora",
    "lora": {},
    "training": {},
    "paths": {"train_file": "t", "eval_file": "e"},
}


def blocks(page: Path, *languages: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
        for indent, language, text in found
        if language in languages
    ]


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", pages_with("python"), ids=named)
def test_python_knows_its_names(page: Path) -> None:
    """What an earlier block of the page has imported or defined is known in the later ones, as to its reader."""
    known = set(dir(builtins)) | {"__file__"}
    unknown: list[str] = []
    for text in blocks(page, "python"):
        tree = ast.parse(source(text), page.name)
        known |= set(bound(tree))
        unknown += [
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in known
        ]
    assert unknown == []


def source(text: str) -> str:
    """Return what is run of a block that shows an interpreter's session."""
    if not text.startswith(">>>"):
        return text
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text))


def bound(tree: ast.AST) -> Iterator[str]:
    """Yield every name that is imported, defined, assigned or taken as an argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name


@pytest.mark.parametrize("page", pages_with("yaml"), ids=named)
def test_yaml_is_a_part_of_an_experiment_or_of_a_contract(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        (tmp_path / "shown.yaml").write_text(text, encoding="utf-8")
        file = load_yaml(tmp_path / "shown.yaml", "shown.yaml")
        assert isinstance(file.tree, dict), text
        if not file.tree.keys() - experiment_schema()["properties"].keys():
            assert not list(schema_problems({**LEAST, **file.tree}, experiment_schema(), file.line_of)), text
        elif not file.tree.keys() - contract_schema()["properties"].keys():
            assert not list(check(file, contract_schema())), text
        else:
            assert {"jobs", "steps", "stages", "judge", "repos"} & file.tree.keys(), text  # of a pipeline


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command: after a `$` where a block shows answers too, else every line."""
    for text in blocks(page, "console", "sh", "bash", ""):
        lines = text.replace("\\\n", " ").splitlines()
        shown = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in shown or (lines if re.match(r"(pytest|pip|python|make)\b", text) else []):
            for one in line.split(" && "):
                yield shlex.split(one, comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=named)
def test_a_command_calls_what_there_is(page: Path) -> None:
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            assert refused(words) is None, " ".join(words)


def refused(words: list[str]) -> str | None:
    """Say what is wrong with a command of ours; of other programs nothing is known."""
    program, *rest = words
    if program.endswith("python") and rest[:2] == ["-m", "pytest"]:
        program, rest = "pytest", rest[2:]
    if program == "pytest-finetune":
        return refused_by_the_parser(rest)
    if program == "pytest":
        given = {word.partition("=")[0] for word in rest if word.startswith("--finetune")}
        return "no such flag" if given - plugin._FLAGS.keys() else None
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return None if {word for word in rest if "=" not in word} <= set(targets) else "no such target"
    if program.endswith("python") and rest[:1] == ["-m"]:
        return None if importlib.util.find_spec(rest[1]) else "no such module"
    if program == "pip":
        asked = re.findall(r"pytest-finetune\[([\w,]+)\]", " ".join(rest))
        extras = re.findall(
            r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
        )
        return (
            None if {extra for each in asked for extra in each.split(",")} <= set(extras) else "no such extra"
        )
    return None


def refused_by_the_parser(words: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser().parse_args(words)
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    return None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_names_flags_of_pytest_that_there_are(page: Path) -> None:
    flags = set(re.findall(r"--finetune[a-z-]*\b", page.read_text(encoding="utf-8")))
    assert flags - plugin._FLAGS.keys() == set()


@pytest.mark.parametrize("page", AT_THE_TOP, ids=named)
def test_a_page_at_the_top_links_to_files_that_there_are(page: Path) -> None:
    """The links of the pages under `docs` are checked where the site is built."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    "words",
    ["pytest-finetune plan --bugdet 8GiB", "pytest --finetune-promot", "make exampel", "pip install 'pytest-finetune[tarin]'",
     "python -m docs.nothing"],
)  # fmt: skip
def test_a_command_that_does_not_exist_is_found(words: str) -> None:
    assert refused(shlex.split(words)) is not None
