"""Write the pages of the reference from the code: keys of both files, flags, markers, fixtures, hooks, exit codes.

    python -m docs.reference

`tests/docs/test_reference.py` fails where a page is not what this module writes.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from pytest_finetune import fixtures, hookspecs, plugin
from pytest_finetune.data.contract import schema as contract_schema
from pytest_finetune.experiment.records import schema as experiment_schema
from pytest_finetune.suite.markers import FIXTURE_STAGES, PER_ROW, WHOLE

FOLDER: Final = Path(__file__).parent / "reference"
Json = Mapping[str, Any]

HEAD: Final = """\
`python -m docs.reference` writes this page from the code. Words with a meaning of their own here, such as arm or
primary rule, are in the [glossary](../glossary.md)."""
EXPERIMENT: Final = """\
# Keys of the experiment file

{head}

`finetune.yaml` at pytest's rootdir is one experiment; the ini option `finetune_experiments` names others. Every key
is checked before anything is loaded: an unknown one is an error with file, line and the nearest name that is known.
Paths are relative to the rootdir. For your editor the same is in `pytest_finetune/experiment/experiment.schema.json`.

`--finetune-set training.learning_rate=1e-4` sets one for one run.
"""
CONTRACT: Final = """\
# Keys of the contract file

{head}

The file that `paths.contract_file` names; [what it is for](../data.md#the-contract-file). Every key may be left
out. For your editor the same is in `pytest_finetune/data/contract.schema.json`.
"""
PYTEST: Final = """\
# Flags, markers, fixtures, hooks

{head}

What the plugin adds to pytest. What tests and hooks get and give is listed under [public names](../api.md); the command
`pytest-finetune` has [a page of its own](../command-line.md).
"""
EXIT_CODES: Final = {
    0: "Every test passed or was skipped. With `--finetune-promote`: the bundle is written.",
    1: "A test failed, such as `assert decision.keep`; or a promotion was refused, or the "
    "record could not be written. The last lines say which.",
    2: "Ctrl-C, or an error while tests were collected. A training that was under way has "
    "left a checkpoint and goes on from it in the next run.",
    3: "A fault of pytest or of a plugin. Please report one that names pytest_finetune.",
    4: "A mistake in a flag, an ini option or an experiment file; nothing was run.",
    5: "There were no tests.",
    6: "There were more warnings than `--max-warnings` allows (pytest 9.1).",
}


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    return {
        "experiment.md": EXPERIMENT.format(head=HEAD) + "".join(sections(experiment_schema())),
        "contract.md": CONTRACT.format(head=HEAD) + "".join(sections(contract_schema())),
        "pytest.md": PYTEST.format(head=HEAD) + "".join(of_pytest()),
    }


def sections(schema: Json) -> Iterator[str]:
    """Yield the table of the keys at the top, then one for each key that has keys of its own."""
    shared = schema.get("$defs", {})
    yield "\n## At the top\n\n" + table("", schema, shared)
    for key, rule in schema["properties"].items():
        yield from section(key, rule, shared)


def section(path: str, rule: Json, shared: Json) -> Iterator[str]:
    """Yield the table of one key that has keys of its own, and those below it."""
    path, holder = inside(path, rule)
    if "properties" not in holder:
        return
    yield f"\n## {path}\n\n" + table(path, holder, shared)
    for key, below in holder["properties"].items():
        yield from section(f"{path}.{key}", below, shared)


def inside(path: str, rule: Json) -> tuple[str, Json]:
    """Return what holds the keys: of a list its entries, of a mapping with free names what each name holds."""
    if isinstance(rule.get("items"), dict):
        return f"{path}[]", rule["items"]
    if isinstance(rule.get("additionalProperties"), dict):
        return f"{path}.NAME", rule["additionalProperties"]
    return path, rule


def table(path: str, holder: Json, shared: Json) -> str:
    """Return the keys of one mapping as a table; a key that has keys of its own leads to them."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, rule in holder["properties"].items():
        if "$ref" in rule:
            rule = {**shared[rule["$ref"].rpartition("/")[2]], **rule}
        below, inner = inside(f"{path}.{key}" if path else key, rule)
        name = f"[`{key}`](#{re.sub(r'[^a-z_]', '', below.lower())})" if "properties" in inner else f"`{key}`"
        default = "required" if key in holder.get("required", ()) else default_of(rule)
        rows.append(f"| {name} | {in_cell(type_of(rule))} | {default} | {in_cell(rule['description'])} |")
    return "\n".join(rows) + "\n"


def default_of(rule: Json) -> str:
    """Return the default as it would be written in YAML."""
    if "default" not in rule or rule["default"] is None:
        return ""
    return "`" + in_cell(json.dumps(rule["default"], ensure_ascii=False)) + "`"


TYPES: Final = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "array": "list",
    "null": "null",
}


def type_of(rule: Json) -> str:
    """Say in words which values a key takes.

    >>> type_of({"type": ["integer", "null"], "minimum": 1})
    'integer, 1 or more; or null'
    >>> type_of({"enum": ["contract", False]})
    '`contract`, `false`'
    """
    if "anyOf" in rule:
        return "; or ".join(type_of(choice) for choice in rule["anyOf"])
    if "enum" in rule:
        return ", ".join(
            f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in rule["enum"]
        )
    if "pattern" in rule:
        return f"text like `{rule['pattern']}`"
    named = rule.get("type", "object")
    names = [named] if isinstance(named, str) else list(named)
    return "; or ".join(
        TYPES[name] + (bounds(rule) if name in ("integer", "number") else "") for name in names
    )


def bounds(rule: Json) -> str:
    """Say between which numbers a value lies."""
    words = {
        "minimum": "{} or more",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
    }
    told = [text.format(rule[key]) for key, text in words.items() if key in rule]
    return f", {' and '.join(told)}" if told else ""


def in_cell(text: str) -> str:
    """Return a text that does not end its cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def of_pytest() -> Iterator[str]:
    """Yield the parts of the page about pytest."""
    yield "\n## Flags\n\n| flag | meaning |\n|---|---|\n"
    for flag, about in plugin._FLAGS.items():
        value = about.get("metavar", "")
        written = f"{flag}[={value}]" if about.get("nargs") == "?" else f"{flag}={value}" if value else flag
        yield f"| `{written}` | {in_cell(about['help'].replace('%%', '%'))} |\n"
    yield "\n## Ini options\n\nIn `pytest.ini`, `pytest.toml`, `pyproject.toml`, ...\n\n"
    yield "| option | type | meaning |\n|---|---|---|\n"
    for name, about in plugin._INI.items():
        kind = {"args": "list of files", "bool": "true or false"}.get(about.get("type", ""), "text")
        yield f"| `{name}` | {kind} | {in_cell(about['help'])} |\n"
    yield from of_markers()
    yield from of_fixtures()
    yield from of_hooks()
    yield "\n## Exit codes\n\nThose of pytest, and what they mean here.\n\n| code | meaning |\n|---|---|\n"
    yield from (f"| {code} | {text} |\n" for code, text in EXIT_CODES.items())


def of_markers() -> Iterator[str]:
    """Yield the table of markers; the many arguments of `eval_rule` have a table of their own among the rules."""
    yield "\n## Markers\n\n| marker | meaning |\n|---|---|\n"
    for name, about in plugin._MARKERS.items():
        arguments, _, text = about.rpartition(": ")
        more = "; [its arguments](../rules.md#arguments-of-the-marker)" if name == "eval_rule" else ""
        yield f"| `{name}{arguments.removesuffix(':')}` | {in_cell(text)}{more} |\n"


def of_fixtures() -> Iterator[str]:
    """Yield the table of fixtures: what each is, and the stage in which a test that asks for it runs."""
    yield "\n## Fixtures\n\nA test runs in the latest stage of what it asks for: data, fit, baseline, training, rules, "
    yield "comparison, decision.\n\n| fixture | stage | what it is |\n|---|---|---|\n"
    for name, made in vars(fixtures).items():
        function = getattr(made, "__wrapped__", None)
        if name.startswith("_") or function is None:
            continue
        stage = "rules" if name in PER_ROW | WHOLE else FIXTURE_STAGES[name].word
        yield f"| `{name}` | {stage} | {in_cell(in_page(' '.join((inspect.getdoc(function) or '').split())))} |\n"


def of_hooks() -> Iterator[str]:
    """Yield each hook with its arguments, what it is for, and its example."""
    yield "\n## Hooks\n\nFor a `conftest.py` or a plugin. An implementation takes those arguments that it needs.\n"
    for name, hook in vars(hookspecs).items():
        if not name.startswith("pytest_finetune_") or not isinstance(hook, FunctionType):
            continue
        text, _, example = (inspect.getdoc(hook) or "").partition("::\n")
        code = textwrap.dedent(example.strip("\n"))
        yield f"\n### {name}\n\n`{name}({', '.join(inspect.signature(hook).parameters)})`\n\n"
        yield f"{in_page(text)}{'.' if text[-1:].isalnum() else ''}\n\n```python\n{code}\n```\n"


def in_page(text: str) -> str:
    """Return the words of a docstring as Markdown."""
    return text.strip().replace("``", "`")


def write(tell: Callable[[object], None]) -> None:
    """Write every page and tell its path."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        tell(FOLDER / name)


if __name__ == "__main__":
    write(print)
