"""What users import comes from one place, is documented in one place, and costs nothing before it is used."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_finetune

ROOT = Path(pytest_finetune.__file__).parent
DOCS = ROOT.parent / "docs"
NAMES = sorted(set(pytest_finetune.__all__) - {"__version__"})


def test_the_page_lists_every_public_name_with_the_first_line_of_its_docstring() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: (getattr(pytest_finetune, name).__doc__ or "").partition("\n")[0] for name in NAMES}
    told["__version__"] = "The version of the package."
    assert dict(rows) == {name: line.replace("``", "`") for name, line in told.items()}
    assert len(rows) == len(told)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_class_says_what_each_public_method_of_it_does(name: str) -> None:
    found = getattr(pytest_finetune, name)
    methods = vars(found).items() if inspect.isclass(found) else ()
    silent = [
        key for key, value in methods if inspect.isfunction(value) and key[0] != "_" and not value.__doc__
    ]
    assert silent == []


def test_the_type_checker_sees_the_same_names() -> None:
    source = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for block in source.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = pytest_finetune._HOMES
    assert sorted(typed) == NAMES == sorted(homes)
    modules = {name: "" if home == name else f".{home}" for name, home in homes.items()}
    assert typed == {name: f"pytest_finetune{module}" for name, module in modules.items()}


def test_dir_tells_the_public_names_and_a_wrong_name_is_an_ordinary_error() -> None:
    assert dir(pytest_finetune) == sorted(pytest_finetune.__all__)
    with pytest.raises(AttributeError, match="module 'pytest_finetune' has no attribute 'Adapter'"):
        _ = pytest_finetune.Adapter


def test_importing_the_package_imports_no_other_module_of_ours() -> None:
    code = "import sys, pytest_finetune; print([n for n in sys.modules if n.startswith('pytest_finetune.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_a_page_imports_public_names_only(page: Path) -> None:
    deep = re.findall(r"pytest_finetune\.(\w+)", page.read_text(encoding="utf-8"))
    assert set(deep) <= set(pytest_finetune.__all__) | {"key"}, deep
