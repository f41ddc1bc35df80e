"""The house keeps its shape: one direction of flow, no circles, heavy packages in few files and at few places.

Every import counts, whether it runs at load, inside a function or for the type checker only; no room is exempt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import pytest_finetune

ROOT: Final = Path(pytest_finetune.__file__).parent
HEAVY: Final = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "fsspec",
    "huggingface_hub",
    "hypothesis",
    "gguf",
    "mlflow",
    "model_signing",
    "optuna",
    "peft",
    "s3fs",
    "submitit",
    "tensorboard",
    "torch",
    "transformers",
    "trl",
    "wandb",
}
# The files whose job a heavy package is. Each is imported only when its stage runs.
AT_HOME_WITH_TORCH: Final = (
    "answering/null_adapter.py",
    "training/adapter.py",
    "training/arguments.py",
    "training/measuring.py",
    "training/loading.py",
    "training/model.py",
    "training/processes/ranks.py",
    "training/processes/sharing.py",
    "training/trainer.py",
    "memory/tracer/kernels.py",
    "memory/tracer/lean.py",
    "memory/tracer/loading.py",
    "memory/tracer/model.py",
    "memory/tracer/weights.py",
    "memory/tracer/optimizers.py",
    "memory/tracer/premises.py",
    "memory/tracer/recorder.py",
    "memory/tracer/steps.py",
    "memory/tracer/targets.py",
    "memory/tracer/trace.py",
)

FLOOR: Final = (
    "errors",
    "clock",
    "wording",
    "yaml_slips",
    "yamlfile",
    "experiment",
    "safetensors_check",
    "fingerprint",
    "store",
)


def _arrows() -> Mapping[str, Set[str]]:
    """Return which rooms a room may know. Each stands on the floor, and no line names a room of a later line."""
    may: dict[str, set[str]] = {}
    for number, room in enumerate(FLOOR):
        may[room] = set(FLOOR[:number])
    may["data"] = {*FLOOR}
    may["strategies"] = {*FLOOR, "data"}
    may["memory"] = {*FLOOR, "data"}
    may["executors"] = {*FLOOR, "data"}
    may["training"] = {*FLOOR, "data", "memory"}
    may["answering"] = {*FLOOR, "data", "memory", "training"}
    may["judging"] = {"errors", "wording", "experiment"}
    may["rules"] = {"errors", "wording", "judging", "data", "answering"}
    may["huggingface"] = {*FLOOR, "data", "memory", "training", "answering", "judging"}
    may["record"] = may["huggingface"]
    may["hookspecs"] = may["bundle"] = {*may["record"], "record", "executors"}
    may["publish"] = {*may["bundle"], "bundle"}
    may["suite"] = {*may["publish"], "publish", "rules", "huggingface", "hookspecs"}
    may["fixtures"] = {*may["suite"], "suite"}
    may["plugin"] = may["cli"] = {*may["fixtures"], "fixtures"}
    may["__main__"] = {"cli"}
    may["__init__"] = {*may["fixtures"], "strategies"}  # the public face names them all, late
    return may


# What a session of somebody else's pays for: these import late what only our own tests, or one command, use.
START_UP: Final = {"__init__", "plugin", "fixtures"}

# A ready rule is held to its text, whose digest a record keeps: what it imports inside stays inside.
RULE_TEXTS: Final = {"rules.copying", "rules.shape"}


class Import(NamedTuple):
    """One imported name: by which module, of which, in which line, whether in a function, whether for types only."""

    importer: str
    imported: str
    line: int
    late: bool
    typing: bool


@cache
def modules() -> Mapping[str, ast.Module]:
    """Return every module of the package by its name below it; a folder's own module has the folder's name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, tree in modules().items() for found in _imports(name, tree))


def _imports(name: str, node: ast.AST, late: bool = False, typing: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        types = typing or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        if isinstance(child, ast.Import):
            yield from (Import(name, alias.name, child.lineno, late, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                yield Import(name, _module(f"{child.module}.{alias.name}"), child.lineno, late, typing)
        yield from _imports(name, child, inside, types)


def _module(dotted: str) -> str:
    """Return the module that holds a name of ours, a public one too; a foreign name as it is."""
    if not dotted.startswith("pytest_finetune."):
        return dotted
    below = dotted.removeprefix("pytest_finetune.")
    below = pytest_finetune._HOMES.get(below, below)
    while below and below not in modules():
        below = below.rpartition(".")[0]
    return f"pytest_finetune.{below or '__init__'}"


def ours() -> Iterator[Import]:
    """Yield the imports of our own modules, named below the package."""
    for found in imports():
        if found.imported.startswith("pytest_finetune."):
            yield found._replace(imported=found.imported.removeprefix("pytest_finetune."))


def room(module: str) -> str:
    return module.partition(".")[0]


def test_rooms_know_only_the_rooms_before_them() -> None:
    arrows = _arrows()
    against = {
        (found.importer, found.imported)
        for found in ours()
        if room(found.importer) != room(found.imported)
        and found.imported != "__init__"
        and room(found.imported) not in arrows[room(found.importer)]
    }
    assert against == set()


def test_every_room_has_its_place_in_the_table() -> None:
    assert {room(name) for name in modules()} - {""} == set(_arrows())


# The public face names what it gives for the type checker, and is imported for sizes and the version: no circle.
def test_modules_do_not_import_each_other_in_circles() -> None:
    edges: dict[str, set[str]] = {name: set() for name in modules()}
    for found in ours():
        if "__init__" not in (found.importer, found.imported) and found.importer != found.imported:
            edges[found.importer].add(found.imported)
    assert list(_circles(edges)) == []


def _circles(edges: Mapping[str, Set[str]]) -> Iterator[set[str]]:
    """Yield every set of modules that reach each other."""
    reach = {name: _reached(name, edges) for name in edges}
    seen: set[str] = set()
    for name in edges:
        circle = {other for other in reach[name] if name in reach[other]}
        if circle and name not in seen:
            seen |= circle
            yield circle


def _reached(start: str, edges: Mapping[str, Set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for following in edges[ahead.pop()] - found:
            found.add(following)
            ahead.append(following)
    return found


def test_heavy_packages_are_imported_at_the_top_of_a_few_files_only() -> None:
    strays = {
        (found.importer, found.imported)
        for found in imports()
        if not (found.late or found.typing)
        and found.imported.partition(".")[0] in HEAVY
        and f"{found.importer.replace('.', '/')}.py" not in AT_HOME_WITH_TORCH
        and room(found.importer) != "strategies"
    }
    assert strays == set()


def test_every_file_named_as_home_of_a_heavy_package_exists() -> None:
    assert [name for name in AT_HOME_WITH_TORCH if not (ROOT / name).is_file()] == []


def test_a_late_import_of_ours_brings_in_something_heavy_or_keeps_the_start_free() -> None:
    """Anything else stands at the top of its file, where a reader looks for it."""
    top: dict[str, set[str]] = {name: set() for name in modules()}
    for found in ours():
        if not (found.late or found.typing or found.imported == "__init__"):
            top[found.importer].add(found.imported)
    loads = {
        f.importer for f in imports() if not (f.late or f.typing) and f.imported.partition(".")[0] in HEAVY
    }
    late = {
        (found.importer, found.imported)
        for found in ours()
        if found.late and not ({found.imported, *_reached(found.imported, top)} & loads)
    }
    assert {pair for pair in late if pair[0] not in START_UP | RULE_TEXTS} == set()


def test_late_imports_of_ours_are_few() -> None:
    assert len({(found.importer, found.line) for found in ours() if found.late}) <= 40


def test_the_pure_rooms_know_no_pytest() -> None:
    pure = {
        *FLOOR,
        "data",
        "executors",
        "memory",
        "training",
        "answering",
        "judging",
        "record",
        "bundle",
        "publish",
    }
    against = {
        found.importer
        for found in imports()
        if room(found.importer) in pure and found.imported.partition(".")[0] in {"pytest", "_pytest"}
    }
    assert against == set()


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "manager", "misc"])
def test_no_room_has_a_name_that_says_nothing(name: str) -> None:
    assert [module for module in modules() if name in module.split(".")] == []
