"""A team's own diagnosis in a whole session, and the evidence that the built-in ones are given."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from .conftest import Project

OURS = """
from pytest_finetune.judging.evidence import NextChange

@pytest.hookimpl(PRIORITY)
def pytest_finetune_diagnose(evidence):
    failing = evidence.failing("tuned", 2)
    return NextChange("CHANGE", f"the loss ends at {evidence.final_loss}, {evidence.steps} steps", failing)
"""
ADVICE = "judge on a fresh held-out file"


@pytest.fixture
def undecided(project: Project) -> Project:
    """A project whose gain is too small to be kept; no built-in diagnosis has anything to say about it."""
    yaml = (project.path / "finetune.yaml").read_text()
    batches = "num_train_epochs: 1, per_device_train_batch_size: 4"
    project.write({"finetune.yaml": yaml.replace("num_train_epochs: 1", batches)})
    conftest = (project.path / "conftest.py").read_text()
    project.write({"conftest.py": conftest.replace('"loss": 0.5}', '"loss": 1.2}')})  # else it is memorised
    project.says("baseline", 40)
    project.says("tuned", 44)
    return project


def diagnosing(project: Project, change: str, priority: str = "") -> None:
    file = project.path / "conftest.py"
    text = OURS.replace("CHANGE", change).replace("PRIORITY", priority)
    file.write_text(file.read_text() + text, encoding="utf-8")


def next_change(project: Project) -> str:
    change: str = project.experiment()["decision"]["next_change"]["change"]
    return change


def test_a_diagnosis_of_a_conftest_goes_before_the_advice_from_numbers_alone(undecided: Project) -> None:
    undecided.run("--finetune")
    assert next_change(undecided).startswith(ADVICE)
    diagnosing(undecided, "use the house tokenizer")
    result = undecided.run("--finetune")
    decision = undecided.experiment()["decision"]
    assert decision["next_change"] == {
        "change": "use the house tokenizer",
        "because": "the loss ends at 1.2, 2 steps",
        "rows": ["e044", "e045"],
    }
    result.stdout.re_match_lines(
        [r"next change: use the house tokenizer \(because the loss ends at 1.2, 2 steps"]
    )
    note = (undecided.path / "finetune-record" / "decision.md").read_text(encoding="utf-8")
    assert "use the house tokenizer" in note
    assert "the loss ends at 1.2, 2 steps" in note


def test_a_built_in_diagnosis_goes_before_it(undecided: Project) -> None:
    diagnosing(undecided, "use the house tokenizer")
    file = undecided.path / "conftest.py"
    file.write_text(file.read_text().replace("4, 0.01, True)", "8, 0.01, arm != 'tuned')"), encoding="utf-8")
    undecided.run("--finetune")
    assert next_change(undecided).startswith("teach the stop token")


@pytest.mark.parametrize(
    ("first", "second", "heard"),
    [
        ("", "", "of the plugin"),
        ("tryfirst=True", "", "of the conftest"),
        ("", "trylast=True", "of the conftest"),
    ],
)
def test_of_two_teams_the_one_with_the_higher_priority_is_heard(
    undecided: Project, first: str, second: str, heard: str
) -> None:
    """Without a word of theirs pytest asks the plugin first that was registered last."""
    diagnosing(undecided, "of the conftest", first)
    plugin = "import pytest\n" + OURS.replace("CHANGE", "of the plugin").replace("PRIORITY", second)
    undecided.write({"rules_plugin.py": plugin})
    undecided.pytester.syspathinsert()
    file = undecided.path / "conftest.py"
    register = """
def pytest_configure(config):
    import rules_plugin
    config.pluginmanager.register(rules_plugin)
"""
    file.write_text(file.read_text() + register, encoding="utf-8")
    undecided.run("--finetune")
    assert next_change(undecided) == heard


@pytest.mark.parametrize(
    ("body", "risk"),
    [
        (
            "return 1 / 0",
            "pytest_finetune_diagnose failed: ZeroDivisionError: division by zero; correct the plugin",
        ),
        ("return 'more'", "pytest_finetune_diagnose returned a str: return a NextChange or None"),
    ],
)
def test_a_diagnosis_that_is_broken_costs_neither_decision_nor_record(
    undecided: Project, body: str, risk: str
) -> None:
    file = undecided.path / "conftest.py"
    file.write_text(
        file.read_text() + f"\ndef pytest_finetune_diagnose(evidence):\n    {body}\n", encoding="utf-8"
    )
    undecided.run("--finetune")
    decision = undecided.experiment()["decision"]
    assert decision["verdict"] == "iterate"
    assert not decision["undecided"]
    assert risk in decision["risks"]
    assert next_change(undecided).startswith(ADVICE)


def word_tokenizer(words: Iterable[str]) -> str:
    """Return a `tokenizer.json` that knows words and signs."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    text: str = tokenizer.to_str()
    return text


def test_a_token_limit_below_the_expected_answers_is_raised(undecided: Project) -> None:
    undecided.write(
        {
            "base/tokenizer.json": word_tokenizer(["label", "critical", '{"', '":', '"', '"}']),
            "base/tokenizer_config.json": json.dumps({"eos_token": "</s>"}),
        }
    )
    for name, old, new in (
        ("conftest.py", "4, 0.01, True)", "4, 0.01, False)"),
        ("finetune.yaml", "max_new_tokens: 8", "max_new_tokens: 4"),
    ):
        file = undecided.path / name
        file.write_text(file.read_text().replace(old, new), encoding="utf-8")
    undecided.run("--finetune")
    change = undecided.experiment()["decision"]["next_change"]
    assert change["change"] == "raise generation.max_new_tokens from 4 to 32"
    assert (
        change["because"]
        == "80 of 80 answers run to the limit of 4 tokens, and the longest expected answer has 6"
    )
