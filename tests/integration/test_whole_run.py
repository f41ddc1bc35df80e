"""A run is whole or it is not: told by what was collected and what ran, whoever left a test out."""

from __future__ import annotations

import importlib.util

import pytest

from .conftest import Project
from .test_promotion import FIT

COMPARISON = """
import pytest

@pytest.mark.parametrize("by", [0.95, 0.99])
def test_is_far_better(tuned, baseline, by):
    assert tuned["label"].beats(baseline["label"], by=by)
"""
TWO = (
    "2 tests were collected and did not run: "
    "test_compare.py::test_is_far_better[0.95], test_compare.py::test_is_far_better[0.99]"
)
DESELECT = """
@pytest.hookimpl(HOW)
def pytest_collection_modifyitems(config, items):
    out = [item for item in items if "far_better" in item.nodeid]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)
"""
OUTER_WRAPPER = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if "far_better" not in item.nodeid]
    return (yield)
"""
FROM_THE_SESSION = """
@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    session.items[:] = [item for item in session.items if "far_better" not in item.nodeid]
"""
SWALLOW = """
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    return True if "far_better" in item.nodeid else None
"""
SPLIT = """
def pytest_addoption(parser):
    parser.addoption("--parts", type=int)
    parser.addoption("--part", type=int)

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.option.parts:
        out = items[:2] if config.option.part == 1 else items[2:]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)
"""


@pytest.fixture
def compared(project: Project) -> Project:
    """A project that would be promoted, were it not for two comparison tests that fail."""
    project.write({"test_fit.py": FIT, "test_compare.py": COMPARISON})
    return project


def add_to_conftest(project: Project, text: str) -> None:
    project.write({"conftest.py": (project.path / "conftest.py").read_text() + text})


@pytest.mark.parametrize(
    "conftest",
    [
        DESELECT.replace("HOW", ""),
        DESELECT.replace("HOW", "trylast=True"),
        OUTER_WRAPPER,
        FROM_THE_SESSION,
        SWALLOW,
    ],
    ids=["deselect", "deselect last", "outer wrapper", "session", "swallow"],
)
def test_failing_tests_that_a_conftest_leaves_out_are_no_way_to_a_bundle(
    compared: Project, conftest: str
) -> None:
    add_to_conftest(compared, conftest)
    result = compared.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    assert "failed" not in result.parseoutcomes()
    assert not (compared.path / "artifacts").exists()
    result.stdout.fnmatch_lines([f"not promoted: {TWO.replace('[', '[[]')}"])
    assert f"narrowed run: {TWO}" in compared.record()["notes"]


def test_two_workers_say_the_same(compared: Project) -> None:
    add_to_conftest(compared, DESELECT.replace("HOW", ""))
    result = compared.run("--finetune", "--finetune-promote", "-n", "2")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"not promoted: {TWO.replace('[', '[[]')}"])
    assert f"narrowed run: {TWO}" in compared.record()["notes"]


@pytest.mark.parametrize("group", [1, 2])
def test_a_part_of_a_suite_that_was_split_is_not_promoted(compared: Project, group: int) -> None:
    add_to_conftest(compared, SPLIT)
    result = compared.run("--finetune", "--finetune-promote", "--parts=2", f"--part={group}")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: * collected and did not run: *"])
    assert not (compared.path / "artifacts").exists()


@pytest.mark.skipif(not importlib.util.find_spec("pytest_split"), reason="pytest-split is not installed")
def test_a_part_of_a_suite_that_pytest_split_split_is_not_promoted(compared: Project) -> None:
    result = compared.run("--finetune", "--finetune-promote", "--splits=2", "--group=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: * collected and did not run: *"])


def test_tests_after_the_first_failure_are_named(compared: Project) -> None:
    result = compared.run("--finetune", "--finetune-promote", "-x")
    assert result.ret == 1
    said = "2 tests were collected and did not run: test_compare.py::test_is_far_better[[]0.99], test_decision.py::test_keep"
    result.stdout.fnmatch_lines([f"not promoted: {said}"])


def test_tests_that_were_only_set_up_did_not_run(project: Project) -> None:
    project.write({"test_fit.py": FIT})
    result = project.run("--finetune", "--finetune-promote", "--setup-only")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: 5 tests were collected and did not run: *"])


@pytest.mark.parametrize(
    "conftest",
    [
        "\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n",
        "\ndef pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if 'plain' not in i.nodeid]\n",
    ],
    ids=["another order", "a test that is not ours"],
)
def test_what_changes_nothing_for_the_decision_is_a_whole_run(project: Project, conftest: str) -> None:
    project.write({"test_fit.py": FIT, "test_other.py": "def test_plain(): pass\n"})
    add_to_conftest(project, conftest)
    assert project.run("--finetune", "--finetune-promote").ret == 0
    assert not any("narrowed" in note for note in project.record()["notes"])


def test_work_that_is_shared_is_a_whole_run(project: Project) -> None:
    project.write({"test_fit.py": FIT})
    assert project.run("--finetune", "--finetune-promote", "-n", "2").ret == 0
    assert not any("narrowed" in note for note in project.record()["notes"])


def test_a_file_that_is_passed_over_after_a_whole_run_is_named(compared: Project) -> None:
    assert compared.run("--finetune").ret == 1
    add_to_conftest(compared, "\ncollect_ignore = ['test_compare.py']\n")
    said = (
        "test_compare.py was not collected, and its tests ran in the last whole run: test_is_far_better; let it be "
        "collected again, or take them out of it"
    )
    for _ in range(2):  # the run without the file is no whole run, and is not remembered as one
        result = compared.run("--finetune", "--finetune-promote")
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"not promoted: {said}"])
        assert f"narrowed run: {said}" in compared.record()["notes"]
    compared.write({"test_compare.py": "# the tests were given up\n"})
    assert compared.run("--finetune", "--finetune-promote").ret == 0


def test_a_file_that_an_option_ignores_is_named_too(compared: Project) -> None:
    assert compared.run("--finetune").ret == 1
    result = compared.run("--finetune", "--finetune-promote", "--ignore=test_compare.py")
    result.stdout.fnmatch_lines(["not promoted: test_compare.py was not collected, *: test_is_far_better; *"])
    (compared.path / "test_compare.py").unlink()
    assert compared.run("--finetune", "--finetune-promote").ret == 0
