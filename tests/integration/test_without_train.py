"""Without the extra `train`, stored data, runs and bundles can be read, and whatever needs more names the extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_finetune
from pytest_finetune import errors

from .bundles import new_project

# Puts a finder in place of python's that knows no package of an extra, as if none was installed.
ABSENT = f"""\
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {sorted(errors._EXTRAS)} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
TRAIN = "which is not installed: pip install 'pytest-finetune[train]'"
# At home with torch: imported only where it is there.
HEAVY = ("answering.null_adapter", "memory.tracer", "training")


def without_extras(code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run python code as in an install without extras."""
    return subprocess.run(
        [sys.executable, "-c", ABSENT + code, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from pytest_finetune.cli import main\nsys.exit(main(sys.argv[1:]))"
    return without_extras(code, *words, folder=folder)


def session(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    return without_extras(code, *words, folder=folder)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose trainer and runtime need no torch, trained, judged and promoted without any extra."""
    project = new_project(tmp_path_factory.mktemp("core") / "project")
    ran = session("--finetune", "--finetune-promote=adapter", folder=project.path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return project.path


def test_every_module_of_the_core_is_imported_without_the_packages_of_an_extra() -> None:
    root = Path(pytest_finetune.__file__).parent
    names = [
        path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in root.rglob("*.py")
    ]
    core = [name.removesuffix(".__init__") for name in sorted(names) if not name.startswith(HEAVY)]
    code = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(f'pytest_finetune.{name}')"
    ran = without_extras(
        code, *(name for name in core if name not in {"__init__", "__main__"}), folder=root.parent
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "adapter"], "KEEP, computed again"),
        (["verify", "adapter", "--rules", "."], "run again"),
        (["history"], "1 run: 1 keep"),
        (["compare", "finetune-record", "adapter"], "A  finetune-record"),
        (["power"], "decision.min_gain"),
        (["profile"], "eval.jsonl"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_what_is_stored_is_read(promoted: Path, words: list[str], said: str) -> None:
    ran = command(*words, folder=promoted)
    assert ran.returncode in {0, 1}, ran.stderr
    assert said in ran.stdout


def test_data_tests_run_and_the_rest_says_why_not(promoted: Path) -> None:
    ran = session("-q", "-rs", folder=promoted)
    assert ran.returncode == 0, ran.stdout
    assert "needs a model: run pytest --finetune" in ran.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan"], TRAIN),
        (["verify", "adapter", "--run"], TRAIN),
        (["push", "adapter", "--to", "hf://somebody/something"], "pip install 'pytest-finetune[hub]'"),
        (["push", "adapter", "--to", "mlflow:http://localhost:1"], "pip install 'pytest-finetune[mlflow]'"),
        (["history", "--store", "s3://bucket/store"], "pip install 'pytest-finetune[remote]'"),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, list) else "",
)
def test_a_command_names_the_extra_that_it_needs(promoted: Path, words: list[str], said: str) -> None:
    ran = command(*words, folder=promoted)
    assert ran.returncode in {1, 2}, ran.stdout
    assert said in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_session_that_needs_the_built_in_trainer_and_runtime_names_the_extra(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    (project.path / "conftest.py").unlink()
    project.write({"base/tokenizer.model": "of a model that is never loaded"})
    ran = session("--finetune", folder=project.path)
    assert ran.returncode == 1, ran.stdout
    assert TRAIN in ran.stdout
    assert "Traceback" not in ran.stdout
    assert "ModuleNotFoundError" not in ran.stdout


def test_a_promotion_that_is_to_be_signed_names_the_extra_before_the_run(promoted: Path) -> None:
    ran = session("--finetune", "--finetune-promote=signed", "--finetune-sign=key.pem", folder=promoted)
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'pytest-finetune[sign]'" in ran.stderr


def test_a_public_name_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    ran = without_extras("from pytest_finetune import PlainStep", folder=tmp_path)
    assert ran.stderr.splitlines()[-1] == f"pytest_finetune.errors.FinetuneError: this needs torch, {TRAIN}"
