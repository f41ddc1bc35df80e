"""What a rule may do, and what makes it a failure of a row, an error of the item, or nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

HEAD = "import json, re\nimport pytest\n\n"


def with_rule(project: Project, code: str) -> None:
    """Add a rule beside those of the project."""
    project.write({"test_more.py": HEAD + code})


def with_rule_tested_by_nobody(project: Project, body: str, *, mark: str, extra: str = "") -> None:
    """Add a rule that is run on no expected answer first, since it reads how many tokens an answer has."""
    with_rule(project, f"{mark}\ndef test_extra(response{extra}):\n    response.tokens\n    {body}\n")


def outcome_of(project: Project, rule: str) -> str:
    """Return the outcome of a rule in the last record."""
    return str(project.experiment()["rules"][rule]["outcome"])


@pytest.mark.parametrize(
    "body",
    [
        "assert response.text == 'never'",
        "pytest.fail('no')",
        "raise ValueError('bad')" + " if 'prose' in response.text else AssertionError('also bad')",
        "{}[response.text]",
        "json.loads(response.text + '}')",
    ],
)
def test_what_says_something_about_the_answer_fails_the_row(project: Project, body: str) -> None:
    with_rule_tested_by_nobody(project, body, mark="@pytest.mark.eval_rule(min_rate=0.5)")
    result = project.run("--finetune")
    assert outcome_of(project, "extra") == "failed"
    result.stdout.fnmatch_lines(["*rule 'extra' does not hold*", "*min_rate: 0 of 80 rows pass*"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("respone.text", "NameError"),
        ("raise OSError('disk')", "OSError"),
        ("response.text.foo", "on all 240 answers of every arm"),
        ("int('x')", "on all 240 answers of every arm"),
        ("return response.text == 'yes'", "it returned False"),
        ("score(2)", "write a number between 0 and 1"),
    ],
)
def test_what_says_something_about_the_rule_is_an_error_of_the_item(
    project: Project, body: str, said: str
) -> None:
    extra = ", score" if "score" in body else ""
    with_rule_tested_by_nobody(project, body, mark="@pytest.mark.eval_rule", extra=extra)
    result = project.run("--finetune")
    assert result.ret == 1
    assert outcome_of(project, "extra") == "error"
    result.stdout.fnmatch_lines([f"*{said}*"])
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert not decision["keep"]


def test_a_guard_that_no_row_passes_is_undecided_never_green(project: Project) -> None:
    with_rule_tested_by_nobody(project, "assert response.text == 'never'", mark="@pytest.mark.eval_rule")
    result = project.run("--finetune")
    assert result.ret == 1
    assert outcome_of(project, "extra") == "undecided"
    assert project.experiment()["decision"]["undecided"]


def test_a_row_skipped_in_every_arm_leaves_the_count(project: Project) -> None:
    with_rule(
        project,
        "@pytest.mark.eval_rule(min_rate=0.5)\ndef test_extra(response, example):\n"
        "    if example.id < 'e010':\n        pytest.skip('out of scope')\n    json.loads(response.text)\n",
    )
    result = project.run("--finetune")
    assert result.ret == 0
    rule = project.experiment()["rules"]["extra"]
    assert len(rule["skipped"]) == 10
    assert project.experiment()["arms"]["tuned"]["rules"]["extra"]["total"] == 70


def test_a_skip_that_depends_on_the_answer_blocks_the_keep(project: Project) -> None:
    with_rule(
        project,
        "@pytest.mark.eval_rule(min_rate=0.5)\ndef test_extra(response):\n"
        "    if response.text == 'prose':\n        pytest.skip('no json')\n    json.loads(response.text)\n",
    )
    result = project.run("--finetune")
    assert result.ret == 1
    assert not project.experiment()["decision"]["keep"]
    assert project.experiment()["decision"]["undecided"]


def test_a_rule_that_skips_every_row_is_an_error_not_a_pass(project: Project) -> None:
    with_rule(project, "@pytest.mark.eval_rule\ndef test_extra(response):\n    pytest.skip('later')\n")
    result = project.run("--finetune")
    assert result.ret == 1
    assert outcome_of(project, "extra") == "undecided"
    result.stdout.fnmatch_lines(["*judged no row: all were skipped*"])


def test_parametrised_rules_have_names_of_their_own(project: Project) -> None:
    with_rule(
        project,
        "@pytest.mark.parametrize('letter', ['a', 'e'])\n@pytest.mark.eval_rule\n"
        "def test_has(response, letter):\n    assert letter in response.text\n",
    )
    project.run("--finetune")
    assert {"has[a]", "has[e]"} <= set(project.experiment()["rules"])


def test_a_graded_rule_scores_between_nought_and_one(project: Project) -> None:
    with_rule(
        project,
        "@pytest.mark.eval_rule(min_rate=0.4)\ndef test_graded(response, score):\n"
        "    score(0.5 if response.text != 'prose' else 0.25)\n",
    )
    assert project.run("--finetune").ret == 0
    assert project.experiment()["arms"]["tuned"]["rules"]["graded"]["rate"] == 0.5


def test_a_rule_may_be_a_method_and_use_ordinary_fixtures(project: Project) -> None:
    with_rule(
        project,
        "@pytest.fixture\ndef wanted():\n    return {'label'}\n\n"
        "class TestRules:\n    @pytest.mark.eval_rule(min_rate=0.9)\n"
        "    def test_keys(self, response, wanted):\n        assert set(response.json()) == wanted\n",
    )
    assert project.run("--finetune").ret == 0
    assert outcome_of(project, "keys") == "passed"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("@pytest.mark.eval_rule\ndef test_x(example):\n    pass\n", "takes `response` in its own signature"),
        ("@pytest.mark.eval_rule\nasync def test_x(response):\n    pass\n", "write def, not async def"),
        ("def test_x(response):\n    pass\n", "mark the test with @pytest.mark.eval_rule"),
        (
            "@pytest.fixture\ndef response():\n    return 1\n@pytest.mark.eval_rule\ndef test_x(response):\n    pass\n",
            "another fixture of that name",
        ),
        (
            "@pytest.fixture\ndef parsed(response):\n    return response.json()\n@pytest.mark.eval_rule\ndef test_x(response, parsed):\n    pass\n",
            "NOT-INDIRECT",
        ),
        (
            "@pytest.fixture\ndef row(example):\n    return example\n@pytest.mark.eval_rule\ndef test_x(response, row):\n    pass\n",
            "call a helper function",
        ),
        ("@pytest.mark.eval_rule(0.9)\ndef test_x(response):\n    pass\n", "keyword arguments only"),
        ("@pytest.mark.eval_rule(min_rat=0.9)\ndef test_x(response):\n    pass\n", "did you mean 'min_rate'"),
        ("@pytest.mark.eval_rule(min_rate=95)\ndef test_x(response):\n    pass\n", "share between 0 and 1"),
        (
            "@pytest.mark.eval_rule(name='label')\ndef test_x(response):\n    pass\n",
            "2 rules have the name 'label'",
        ),
        ("@pytest.mark.finetune()\ndef test_x(experiment):\n    pass\n", "name one experiment file"),
        (
            "@pytest.mark.finetune('none.yaml')\ndef test_x(experiment):\n    pass\n",
            "no such experiment file",
        ),
        ("def test_x(prompted):\n    pass\n", "set prompt.few_shot"),
        (
            "def test_x(tuned):\n    tuned['labl']\n",
            "there is no rule of that name; known: strict_json, label",
        ),
        ("@pytest.mark.eval_rule(suite='general')\ndef test_x(response):\n    pass\n", "no such suite"),
    ],
)
def test_misuse_fails_the_item_with_what_to_do(project: Project, code: str, said: str) -> None:
    if said == "NOT-INDIRECT":
        said = "a fixture is set up once, not for every row"
    with_rule(project, code)
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])
    assert not any(line.startswith("INTERNALERROR") for line in result.outlines)


def test_messages_are_rewritten_by_pytest_and_kept_per_row(project: Project) -> None:
    project.run("--finetune")
    messages = project.experiment()["rules"]["label"]["messages"]["tuned"]
    assert len(messages) == 8
    assert "assert 'none' == " in next(iter(messages.values()))


def test_a_timeout_aborts_the_item_not_a_row(project: Project) -> None:
    with_rule(
        project,
        "import time\n@pytest.mark.timeout(1, method='signal')\n@pytest.mark.eval_rule(min_rate=0.1)\n"
        "def test_slow(response):\n    time.sleep(0.1)\n",
    )
    result = project.run("--finetune")
    assert result.ret == 1
    assert outcome_of(project, "slow") == "error"


def test_a_guard_on_a_suite_sees_what_was_forgotten(project: Project) -> None:
    text = (project.path / "finetune.yaml").read_text()
    rows = [
        f'{{"id": "g{i:02d}", "instruction": "say", "input": "general thing {i}", "expected": "ok"}}\n'
        for i in range(40)
    ]
    project.write(
        {
            "general.jsonl": "".join(rows),
            "finetune.yaml": text.replace(
                "eval_file: eval.jsonl", "eval_file: eval.jsonl, suites: {general: general.jsonl}"
            ),
        }
    )
    for arm, right in (("baseline", 40), ("tuned", 10)):
        project.answers[arm] |= {f"g{i:02d}": "ok" if i < right else "{}" for i in range(40)}
    project.save()
    with_rule(
        project,
        "@pytest.mark.eval_rule(suite='general')\ndef test_still_ok(response):\n    assert response.text == 'ok'\n",
    )
    result = project.run("--finetune")
    assert result.ret == 1
    assert outcome_of(project, "still_ok") == "failed"
    assert not project.experiment()["decision"]["keep"]
