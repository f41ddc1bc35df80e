"""Ready rules and corpus rules in a session: collected, judged, recorded, digested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .conftest import expected, row_id

if TYPE_CHECKING:
    from .conftest import Project

CONTRACT = """\
task: priority
version: 1
output: {format: json, schema: {type: object, required: [label], properties: {label: {type: string}}}}
labels: {field: label, values: [critical, high, medium, low, none]}
"""

READY = """\
from pytest_finetune import rules

test_strict_json = rules.strict_json(keys=["label"], min_rate=0.95)
test_label = rules.label_agreement(primary=True, min_gain=0.1)
test_schema = rules.output_schema(min_rate=0.95)
test_allowed = rules.allowed_label(min_rate=0.95)
test_no_prose = rules.no_prose_around_json(min_rate=0.95)
test_stops = rules.stops_by_itself()
test_short = rules.length(max_tokens=8)
test_fast = rules.latency(1.0, min_rate=0.95)
test_f1 = rules.macro_f1(min_rate=0.7)
test_collapse = rules.no_label_collapse(max_share=0.5)
test_copied = rules.no_training_text()
"""


def ready(project: Project, text: str = READY) -> None:
    """Use ready rules under a contract."""
    yaml = (project.path / "finetune.yaml").read_text()
    if "contract_file" not in yaml:
        yaml = yaml.replace("eval_file: eval.jsonl", "eval_file: eval.jsonl, contract_file: contract.yaml")
    project.write({"test_rules.py": text, "contract.yaml": CONTRACT, "finetune.yaml": yaml})


def test_a_file_of_one_line_rules_decides(project: Project) -> None:
    ready(project)
    result = project.run("--finetune", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["test_rules.py::test_strict_json PASSED*", "test_rules.py::test_f1 PASSED*"])
    experiment = project.experiment()
    assert set(experiment["rules"]) == {
        line.split(" ")[0].removeprefix("test_") for line in READY.splitlines() if line.startswith("test_")
    }
    label = experiment["rules"]["label"]
    assert label["confusion"]["tuned"]["critical"] == {"critical": 18, "none": 2}
    assert label["confusion"]["baseline"]["low"] == {"": 20}
    f1 = experiment["arms"]["tuned"]["rules"]["f1"]
    assert f1 == {"passed": f1["rate"], "total": 1, "rate": f1["rate"], "interval": None}
    assert f1["rate"] == pytest.approx(36 / 38, abs=1e-6)
    assert experiment["arms"]["baseline"]["rules"]["f1"]["rate"] == 0
    assert "f1" not in {pair["rule"] for pair in experiment["comparisons"]}
    assert experiment["rules"]["f1"]["reasons"] == [
        "min_rate: 0.947 over all answers together, at least 0.7 (0.000 with the base model)"
    ]


def test_another_parameter_of_a_ready_rule_is_another_text(project: Project) -> None:
    ready(project)
    project.run("--finetune")
    first = {name: rule["sha256"] for name, rule in project.experiment()["rules"].items()}
    project.calls()
    ready(project, READY.replace("max_tokens=8", "max_tokens=9").replace("latency(1.0", "latency(1.5"))
    project.run("--finetune")
    assert project.calls() == []
    rules = project.experiment()["rules"]
    assert {name for name, rule in rules.items() if rule["sha256"] != first[name]} == {"short", "fast"}
    assert {name for name, rule in rules.items() if rule["changed_after_look"]} == {"short", "fast"}


def test_a_corpus_rule_that_does_not_hold_forbids_the_keep(project: Project) -> None:
    ready(project, READY.replace("max_share=0.5", "max_share=0.2").replace("min_rate=0.7", "min_rate=0.99"))
    project.answers["tuned"] = {row_id(i): expected(i) if i < 70 else expected(0) for i in range(80)}
    project.save()
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*rule 'f1' does not hold*",
            "*over all answers together, below 0.99 (0.000 with the base model)",
            "*rule 'collapse' does not hold*",
            "*does not hold on all answers together (with the base model it does not)",
            "*28 of 80 answers say 'critical', which is expected 20 times",
        ]
    )
    assert project.experiment()["decision"]["verdict"] == "iterate"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("@RULE(corpus=True)\ndef test_x(response):\n    pass\n", "takes `responses` in its own signature"),
        (
            "@RULE(corpus=True)\ndef test_x(responses, example):\n    pass\n",
            "a corpus rule cannot take example",
        ),
        ("@RULE\ndef test_x(response, examples):\n    pass\n", "write corpus=True for that"),
        ("@RULE(corpus=True)\ndef test_x(responses, score):\n    score(0.5)\n", "write min_rate"),
        ("@RULE(corpus=True)\ndef test_x(responses):\n    return 1\n", "it returned 1"),
        ("@RULE(corpus=True)\ndef test_x(responses):\n    pytest.skip('later')\n", "all were skipped"),
    ],
)
def test_a_corpus_rule_that_cannot_judge_is_never_green(project: Project, code: str, said: str) -> None:
    project.write({"test_more.py": "import pytest\nRULE = pytest.mark.eval_rule\n" + code})
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*{said}*"])
    assert not project.experiment()["decision"]["keep"]
