"""A session that uses nothing of ours costs nothing: no heavy import, no file, no output."""

from __future__ import annotations

import json

import pytest

from pytest_finetune import plugin
from pytest_finetune.suite import collection, evidence, markers, options

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "scipy",
    "numpy",
    "pydantic",
    "yaml",
    "jsonschema",
    "hypothesis",
}

PLAIN = """\
import json, sys
def test_plain():
    json.dump(sorted(sys.modules), open('modules.json', 'w'))
"""


def modules(pytester: pytest.Pytester, *args: str) -> set[str]:
    """Return the modules that a plain test finds loaded."""
    pytester.makepyfile(test_plain=PLAIN)
    base = (
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:html",
        "-p",
        "no:metadata",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:anyio",
    )
    result = pytester.runpytest_subprocess(*base, *args)
    assert result.ret == 0
    return set(json.loads((pytester.path / "modules.json").read_text()))


def test_nothing_heavy_is_imported(pytester: pytest.Pytester) -> None:
    loaded = modules(pytester)
    assert "pytest_finetune.plugin" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


OURS = {"pytest_finetune", "pytest_finetune.fixtures", "pytest_finetune.plugin"}


def test_the_plugin_adds_three_modules_of_its_own(pytester: pytest.Pytester) -> None:
    added = modules(pytester) - modules(pytester, "-p", "no:finetune")
    foreign = {name for name in added if not name.startswith("pytest_finetune")}
    assert added - foreign == OURS
    assert len(foreign) <= 4, sorted(foreign)


def test_fixtures_that_only_have_the_names_of_ours_add_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def experiment():
            return "an experiment of somebody else's"

        @pytest.fixture
        def score(experiment):
            return 1
        """
    )
    pytester.makepyfile(test_other="def test_other(experiment, score): assert experiment")
    assert {name for name in modules(pytester) if name.startswith("pytest_finetune")} == OURS


@pytest.mark.parametrize(
    ("words", "ini"),
    [
        (["--finetune-budget=8GiB"], ""),
        (["--finetune-set", "training.seed=1"], ""),
        ([], "finetune_record = elsewhere"),
        (["-o", "finetune_store=elsewhere"], ""),
    ],
)
def test_a_flag_or_an_ini_option_begins_the_session(
    pytester: pytest.Pytester, words: list[str], ini: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    assert "pytest_finetune.suite.session" in modules(pytester, *words)


def test_the_default_file_begins_the_session(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", finetune="task: [")
    pytester.makepyfile(test_plain=PLAIN)
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_knows_the_names_of_the_suite() -> None:
    assert plugin._EXPERIMENT == collection.PARAM
    assert plugin._EVIDENCE == evidence.ATTRIBUTE
    assert plugin._FILE == options.DEFAULT_EXPERIMENT
    assert set(markers.MARKER_STAGES) == set(plugin._MARKERS) - {"finetune", "gpu"}
    for flag, default in (
        ("--finetune-store", options.DEFAULT_STORE),
        ("--finetune-record", options.DEFAULT_RECORD),
    ):
        assert f"(default: {default})" in plugin._FLAGS[flag]["help"]


def test_a_hook_of_ours_that_is_misspelt_or_takes_a_wrong_argument_is_refused(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_plain="def test_plain(): pass")
    pytester.makeconftest("def pytest_finetune_trian(request): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    assert "unknown hook 'pytest_finetune_trian'" in result.stdout.str() + result.stderr.str()
    pytester.makeconftest("def pytest_finetune_train(reqest): pass")
    result = pytester.runpytest_subprocess()
    assert result.ret != 0
    assert "reqest" in result.stderr.str() + result.stdout.str()


def test_no_file_is_written_and_nothing_is_printed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain="def test_plain(): pass\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    written = {
        path.name
        for path in pytester.path.iterdir()
        if not path.name.startswith(("runpytest", "__pycache__", "std"))
    }
    assert written == {"test_plain.py"}
    named = [
        line
        for line in result.outlines
        if "finetune" in line and not line.startswith(("plugins:", "rootdir:"))
    ]
    assert named == []


def test_without_the_plugin_a_project_behaves_as_if_we_were_not_there(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain="def test_plain(): pass\n")
    pytester.runpytest_subprocess("-p", "no:finetune").assert_outcomes(passed=1)
    result = pytester.runpytest_subprocess("-p", "no:finetune", "--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_flags_markers_and_fixtures_are_documented(pytester: pytest.Pytester) -> None:
    helped = pytester.runpytest_subprocess("--help").stdout.str()
    for flag in (
        "--finetune",
        "--finetune-promote",
        "--finetune-budget",
        "--finetune-set",
        "--finetune-store",
        "--finetune-store-readonly",
        "--finetune-record",
        "--finetune-retrain",
        "--finetune-device",
        "--finetune-require-gpu",
    ):
        assert flag in helped
    marked = pytester.runpytest_subprocess("--markers").stdout.str()
    for marker in ("data_contract", "oom_fit", "eval_rule", "decision_rule", "finetune", "gpu"):
        assert f"@pytest.mark.{marker}" in marked
    fixtures = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for fixture in (
        "experiment",
        "charter",
        "train_rows",
        "eval_rows",
        "contract",
        "gpu_budget",
        "disk_budget",
        "memory_plan",
        "base_model",
        "trained_adapter",
        "baseline",
        "prompted",
        "tuned",
        "response",
        "example",
        "score",
        "decision",
        "arms",
        "runtime_match",
    ):
        assert f"\n{fixture}" in fixtures
