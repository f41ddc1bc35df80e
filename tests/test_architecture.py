"""The house keeps its shape: heavy packages in few files, no circles, one direction of flow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_finetune

ROOT = Path(pytest_finetune.__file__).parent
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate"}
NOT_AT_START = HEAVY | {
    "scipy",
    "numpy",
    "yaml",
    "jsonschema",
    "jsonschema_rs",
    "hypothesis",
    "tokenizers",
    "pydantic",
}

# The files whose job a heavy package is. Each is imported only when its stage runs.
AT_HOME_WITH_TORCH = (
    "training/accelerator.py",
    "training/adapter.py",
    "training/arguments.py",
    "training/measuring.py",
    "training/model.py",
    "training/processes/ranks.py",
    "training/trainer.py",
    "memory/tracer/kernels.py",
    "memory/tracer/loading.py",
    "memory/tracer/model.py",
    "memory/tracer/optimizers.py",
    "memory/tracer/recorder.py",
    "memory/tracer/steps.py",
    "memory/tracer/trace.py",
)
# What is read by people's eyes as one thing may import what stands before it, never what stands after.
FLOOR = {
    "errors",
    "experiment",
    "yamlfile",
    "fingerprint",
    "store",
    "safetensors_check",
    "__init__",
}
FLOW = ("data", "memory", "training", "evaluation", "record", "publish")


class Import(NamedTuple):
    """One import statement: who, what, and whether it runs when the importing module is loaded."""

    importer: str
    imported: str
    at_top: bool


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports() -> Iterator[Import]:
    for name, tree in modules():
        guarded = {id(node) for node in _under_type_checking(tree)}
        inside = {
            id(node) for function in ast.walk(tree) if _is_function(function) for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if id(node) in guarded:
                continue
            for imported in _names(node):
                yield Import(name, imported, id(node) not in inside)


def _under_type_checking(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.body:
                yield from ast.walk(child)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def room(module: str) -> str:
    """Return the room of a file or a dotted name: its first part below the package."""
    parts = module.removesuffix(".py").replace("/", ".").removeprefix("pytest_finetune.").split(".")
    return parts[0]


def test_heavy_packages_are_imported_at_the_top_of_a_few_files_only() -> None:
    strays = {
        (found.importer, found.imported)
        for found in imports()
        if found.at_top
        and found.imported.partition(".")[0] in HEAVY
        and found.importer not in AT_HOME_WITH_TORCH
    }
    assert strays == set()


def test_every_file_named_as_home_of_a_heavy_package_exists() -> None:
    missing = [name for name in AT_HOME_WITH_TORCH if not (ROOT / name).is_file()]
    assert missing == []


def test_rooms_import_only_what_stands_before_them_in_the_flow() -> None:
    against = set()
    for found in imports():
        here, there = room(found.importer), room(found.imported)
        if not found.imported.startswith("pytest_finetune") or here == there or here not in {*FLOW, *FLOOR}:
            continue
        if here in FLOOR and there not in FLOOR and there not in {"GiB", "MiB", "KiB", "__version__"}:
            against.add((found.importer, found.imported))
        if here in FLOW and there not in FLOOR | {"GiB", "MiB", "KiB", "__version__"}:
            allowed = FLOW[: FLOW.index(here)]
            if there not in allowed:
                against.add((found.importer, found.imported))
    assert against == set()


def test_the_pure_rooms_know_no_pytest() -> None:
    rooms = {*FLOW, *FLOOR}
    against = {
        f.importer
        for f in imports()
        if room(f.importer) in rooms and f.imported.partition(".")[0] in {"pytest", "_pytest"}
    }
    assert against == set()


def test_modules_do_not_import_each_other_in_circles_when_they_are_loaded() -> None:
    edges: dict[str, set[str]] = {}
    known = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name, _ in modules()}
    for found in imports():
        if found.at_top and found.imported.startswith("pytest_finetune."):
            importer = found.importer.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            target = found.imported.removeprefix("pytest_finetune.")
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != importer:
                edges.setdefault(importer, set()).add(target)
    assert _circle(edges) == []


def _circle(edges: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(edges.get(node, ())):
            found = walk(following, [*path, node])
            if found:
                return found
        done.add(node)
        return []

    for start in sorted(edges):
        found = walk(start, [])
        if found:
            return found
    return []


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "manager", "misc"])
def test_no_room_has_a_name_that_says_nothing(name: str) -> None:
    assert [path for path, _ in modules() if Path(path).stem == name] == []
