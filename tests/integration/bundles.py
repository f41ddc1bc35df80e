"""A promoted bundle of the small project, and the tools of somebody who edits one and mends every digest after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_finetune.answering.answers import read_answers
from pytest_finetune.bundle import format as bundle_manifest
from pytest_finetune.bundle.card import model_card
from pytest_finetune.bundle.format import MANIFEST, describe
from pytest_finetune.bundle.statement import STATEMENT, statement, statement_json
from pytest_finetune.bundle.verify.recompute import contradictions, decision_of
from pytest_finetune.judging.decision import pairs_of
from pytest_finetune.record.case import case_of
from pytest_finetune.record.views.note import decision_note
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.write import record_json

from .conftest import Project, make_project, row_id

FIT = """\
import pytest

@pytest.mark.oom_fit
def test_fits(experiment):
    assert experiment.training.max_seq_length < 4096
"""


def new_project(root: Path, *, few_shot: int = 0) -> Project:
    """Build the small project in `root`, with a test of every stage that a promotion wants to see."""
    root.mkdir(parents=True, exist_ok=True)
    place = cast(pytest.Pytester, SimpleNamespace(path=root))  # only its path is used
    project = make_project(place, few_shot=few_shot)
    project.write({"test_fit.py": FIT, "pytest.ini": "[pytest]\n"})
    return project


MANY_RULES = """\
import json
import pytest

LABELS = ("critical", "high", "medium", "low")

@pytest.mark.eval_rule(min_rate=0.9)
def test_strict_json(response):
    json.loads(response.text)

@pytest.mark.eval_rule(primary=True, min_gain=0.1, slice="tags")
def test_label(response, example):
    assert response.json()["label"] == example.expected_json()["label"]

@pytest.mark.eval_rule(min_rate=0.5, invariant_to=["whitespace"])
def test_label_stays(response, example):
    assert response.json()["label"] == example.expected_json()["label"]

@pytest.mark.eval_rule(corpus=True, min_rate=0.5)
def test_labels_known(responses, examples, score):
    known = sum(any(label in response.text for label in LABELS) for response in responses)
    score(round(0.5 + known / len(examples) / 2, 3))

@pytest.mark.eval_rule(suite="general", max_loss=0.9)
def test_general(response, example, score):
    score(0.75 if response.text == example.expected else 0.25)

@pytest.mark.eval_rule
def test_known_rows_only(response, example):
    if example.id == "e079":
        pytest.skip("too hard")
"""


def many_rules(root: Path) -> Project:
    """Build a project with every kind of rule, a second runtime that differs, a suite, and a noise run of the base."""
    project = new_project(root)
    rows = [json.loads(line) for line in (root / "eval.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["tags"] = ["even" if number % 2 == 0 else "odd"]
    general = [
        {"id": f"g{n}", "instruction": "say", "input": f"general {n}", "expected": f"a{n}"} for n in range(20)
    ]
    conftest = (root / "conftest.py").read_text()
    conftest = conftest.replace("TABLE[arm][p.id]", "TABLE[arm + self.place][p.id.partition('~')[0]]")
    conftest = conftest.replace("class TableRuntime:\n", "class TableRuntime:\n    place = ''\n")
    conftest = conftest.replace(
        "    return TableRuntime()",
        "    found = TableRuntime()\n    found.place = '' if name == 'transformers' else ' in ' + name\n    return found",
    )
    paths = "paths: {contract_file: contract.yaml, suites: {general: general.jsonl}, "
    experiment = (root / "finetune.yaml").read_text().replace("paths: {", paths)
    project.write(
        {
            "test_rules.py": MANY_RULES,
            "conftest.py": conftest,
            "eval.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "contract.yaml": "instruction: [label it, say]\n",
            "general.jsonl": "".join(json.dumps(row) + "\n" for row in general),
            "finetune.yaml": experiment + "runtimes: [transformers, prod]\ndecision: {noise_runs: 1}\n",
        }
    )
    for arm in ("baseline", "tuned"):
        project.answers[arm] |= {row["id"]: row["expected"] for row in general}
    in_prod = {row_id(n): '{"label": "none"}' for n in range(4)}
    project.answers["tuned in prod"] = project.answers["tuned"] | in_prod
    project.answers["baseline in prod"] = project.answers["baseline"]
    project.save()
    return project


def promote(project: Project, *args: str) -> Path:
    """Run the project in a process of its own and return the bundle."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--finetune",
        "--finetune-promote",
        *args,
    ]
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return project.path / "artifacts" / "adapter"


def doctor(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and make everything agree with it again, by the package's own means."""
    file = bundle / "record.json"
    record = json.loads(file.read_bytes())
    before = _fragment(bundle, record)
    change(record)
    page = bundle / "report.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(before, _fragment(bundle, record)), encoding="utf-8")
    file.write_text(record_json(record), encoding="utf-8")
    (bundle / "decision.md").write_text(decision_note(record), encoding="utf-8")
    mend(bundle)


def redecide(experiment: dict[str, Any]) -> None:
    """Let everything in an experiment's record follow from its outcomes again, as an honest run would have it."""
    found = decision_of(experiment).as_json()
    experiment["decision"] |= {
        name: value for name, value in found.items() if name not in {"risks", "next_change"}
    }
    experiment["decision"]["risks"] = list(dict.fromkeys([*experiment["decision"]["risks"], *found["risks"]]))
    experiment["comparisons"] = [one.as_json() for one in decision_of(experiment).comparisons]
    looked = {**experiment, "looks": {"k": experiment["decision"]["looks"]}}
    experiment["pairs"] = list(pairs_of(case_of(looked)))
    for verdict in decision_of(experiment).rules:
        experiment["rules"][verdict.name] |= {"outcome": verdict.outcome, "reasons": list(verdict.reasons)}
    for contradiction in list(contradictions(experiment, texts=True)):
        kind, arm, _, rule, name = contradiction.place.split(".")
        assert kind == "arms"
        experiment["arms"][arm]["rules"][rule][name] = contradiction.computed
    assert list(contradictions(experiment, texts=True)) == []


def mend(bundle: Path) -> None:
    """Write card, statement and manifest anew over whatever the files now hold."""
    record = json.loads((bundle / "record.json").read_bytes())
    (experiment,) = record["experiments"]
    tree = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / "README.md").write_text(model_card(record, experiment, tree["revision"]), encoding="utf-8")
    named = {name: facts["sha256"] for name, facts in describe(bundle).items() if name != STATEMENT}
    content = statement(record, experiment, tree["revision"], named)
    (bundle / STATEMENT).write_bytes(statement_json(content))
    seal(bundle)


def seal(bundle: Path, **changes: object) -> None:
    """Write only the manifest anew."""
    tree = json.loads((bundle / MANIFEST).read_bytes())
    body = {name: value for name, value in tree.items() if name != "digest"}
    body |= {"files": describe(bundle), **changes}
    (bundle / MANIFEST).write_bytes(bundle_manifest.render(body))


def _fragment(bundle: Path, record: dict[str, Any]) -> str:
    answers = {
        one["name"]: {
            arm: [asdict(answer) for answer in read_answers(bundle / facts["outputs"])]
            for arm, facts in one["arms"].items()
        }
        for one in record["experiments"]
    }
    return summary_html(record, answers)
