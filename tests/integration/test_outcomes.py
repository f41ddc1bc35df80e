"""However a session ends, its record keeps the schema, and JUnit has the few words that a CI shows."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.record.validate import problems

if TYPE_CHECKING:
    from .conftest import Project


def keep(project: Project) -> None:
    pass


def iterate(project: Project) -> None:
    project.says("baseline", 60)
    project.says("tuned", 66, other='{"label": "none"}')


def discard(project: Project) -> None:
    project.says("baseline", 80)
    project.says("tuned", 20, other='{"label": "none"}')


def gate_closed(project: Project) -> None:
    project.write({"train.jsonl": '{"instruction": "a", "input": "b", "output": "c"}\nnot json\n'})


def crash(project: Project) -> None:
    project.answers["training_error"] = "CUDA error: device-side assert \x1b[31m"
    project.save()


def dead_server(project: Project) -> None:
    text = (project.path / "conftest.py").read_text()
    text = text.replace(
        "        found = []\n",
        """\
        found = []
        if adapter:
            from pytest_finetune import AnsweringError
            raise AnsweringError("the server died after 12 of 80 rows")
""",
    )
    project.write({"conftest.py": text})


def interrupt(project: Project) -> None:
    text = (project.path / "conftest.py").read_text()
    text = text.replace("    if error:\n", "    raise KeyboardInterrupt\n    if error:\n")
    project.write({"conftest.py": text})


@pytest.mark.parametrize(
    ("end", "status", "verdict"),
    [
        (keep, 0, "keep"),
        (iterate, 1, "iterate"),
        (discard, 1, "discard"),
        (gate_closed, 1, "iterate"),
        (crash, 1, "iterate"),
        (dead_server, 1, "iterate"),
        (interrupt, 2, "iterate"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_record_keeps_its_schema(
    project: Project, end: Callable[[Project], None], status: int, verdict: str
) -> None:
    end(project)
    result = project.run("--finetune", subprocess=end is interrupt)
    record = project.record()
    assert (result.ret, record["exit_status"]) == (status, status)
    assert problems(record) == []
    assert not any("breaks its own schema" in note for note in record["notes"])
    decision = project.experiment()["decision"]
    assert decision["verdict"] == verdict
    # Also what the test took in which the run was stopped, which sends no report.
    assert ("training" in project.experiment()["timings"]) is (end is not gate_closed)
    assert decision["undecided"] is (end in (gate_closed, crash, dead_server, interrupt))
    assert "None" not in [line.strip() for line in result.outlines]


def test_where_answers_could_not_be_had_every_view_names_that_and_no_rule(project: Project) -> None:
    dead_server(project)
    result = project.run("--finetune", "--junitxml=junit.xml")
    decision = project.experiment()["decision"]
    died = "answers of tuned failed: the server died after 12 of 80 rows"
    assert decision["next_change"]["change"] == "mend what failed: answers of tuned"
    assert decision["next_change"]["because"] == decision["reasons"][0] == died
    assert {rule["lacks"] for rule in project.experiment()["rules"].values()} == {"answers of tuned"}
    terminal = " ".join(line.strip() for line in result.outlines)
    views = ("junit.xml", "finetune-record/decision.md", "finetune-record/report.html")
    for text in (terminal, *((project.path / view).read_text("utf-8") for view in views)):
        assert died in text
        assert "mend rule" not in text


def test_the_record_says_what_changed_since_the_last_run(project: Project) -> None:
    project.run("--finetune")
    assert project.experiment()["changes"] is None
    first = project.record()["created"]
    project.run("--finetune")
    assert project.experiment()["changes"] == {"created": first, "fields": {}}
    rows = (project.path / "eval.jsonl").read_text().splitlines(keepends=True)
    project.write({"eval.jsonl": "".join(rows[:70])})
    project.run("--finetune", "--finetune-set", "decision.min_gain=0.2")
    fields = project.experiment()["changes"]["fields"]
    assert set(fields) == {"decision.min_gain", "checksums.eval.sha256"}
    assert fields["decision.min_gain"] == [0.05, 0.2]
    page = (project.path / "finetune-record" / "report.html").read_text(encoding="utf-8")
    assert "<td><code>0.05</code></td><td><code>0.2</code></td>" in page


def properties(project: Project, test: str) -> dict[str, str]:
    tree = ET.parse(project.path / "junit.xml")
    case = next(case for case in tree.iter("testcase") if case.get("name") == test)
    return {str(one.get("name")): str(one.get("value")) for one in case.iter("property")}


def test_junit_has_rates_verdict_and_digest(project: Project) -> None:
    project.run("--finetune", "--junitxml=junit.xml")
    rule = properties(project, "test_label")
    assert rule == {
        "finetune_experiment": "finetune",
        "finetune_rule": "label",
        "finetune_outcome": "passed",
        "finetune_rate_baseline": "0.0",
        "finetune_rate_majority": "0.25",
        "finetune_rate_tuned": "0.9",
    }
    decided = properties(project, "test_keep")
    training = project.experiment()["training"]
    assert decided["finetune_verdict"] == "keep"
    assert decided["finetune_reason"].startswith("label: a gain over the base model is demonstrated")
    assert len(decided["finetune_reason"]) <= 300
    assert decided["finetune_adapter_sha256"] == training["adapter_sha256"]


def test_hostile_words_in_a_rule_stay_one_property(project: Project) -> None:
    text = (project.path / "test_rules.py").read_text()
    name = '@pytest.mark.eval_rule(primary=True, min_gain=0.1, name="label<b>&\\x1b[31m\\u202e]]>")'
    project.write({"test_rules.py": text.replace("@pytest.mark.eval_rule(primary=True, min_gain=0.1)", name)})
    project.run("--finetune", "--junitxml=junit.xml")
    assert properties(project, "test_label")["finetune_rule"] == "label<b>&\\x1b[31m\\u202e]]>"
    assert json.dumps("label<b>&\x1b[31m\u202e]]>") in json.dumps(list(project.experiment()["rules"]))
