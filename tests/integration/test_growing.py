"""Rows are added for the same adapter, in whole sessions: undecided is never green, and what is promoted verifies."""

from __future__ import annotations

import json
from collections.abc import Callable

from pytest_finetune.bundle.verify.rejudged import grown
from pytest_finetune.record.outcomes import GrowthFacts
from pytest_finetune.record.validate import problems

from .bundles import FIT, promote
from .conftest import Project, row_id

GROW = "decision: {min_gain: 0.1, grow: true}\n"


def told(project: Project, file: str) -> str:
    return (project.path / "finetune-record" / file).read_text(encoding="utf-8")


def test_rows_are_added_until_the_gain_is_settled_and_the_bundle_verifies(
    project: Project, verify: Callable[..., tuple[int, str]]
) -> None:
    project.write({"test_fit.py": FIT, "pytest.ini": "[pytest]\n"})
    lines = told_rows(project)
    settings = project.path / "finetune.yaml"
    kept = [
        line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("decision:")
    ]
    settings.write_text("\n".join(kept) + "\n" + GROW, encoding="utf-8")
    project.says("tuned", 80)
    project.answers["tuned"][row_id(7)] = "prose"
    project.save()
    project.write({"eval.jsonl": "".join(lines[:8])})
    assert project.run("--finetune").ret == 1
    decision = project.experiment()["decision"]
    assert (decision["verdict"], decision["growth"]) == ("iterate", {"k": 1, "ends": [], "why": ""})
    assert "e = 31.9 after 8 rows; 40 are needed" in " ".join(decision["reasons"])
    assert "e = 31.9 of 40" in told(project, "decision.md")
    assert problems(project.record()) == []

    project.calls()
    project.write({"eval.jsonl": "".join(lines[:60])})
    bundle = promote(project)
    assert project.calls().count("answer tuned") == 1
    decision = project.experiment()["decision"]
    assert (decision["verdict"], decision["looks"], decision["alpha"]) == ("keep", 2, 0.025)
    assert decision["growth"]["ends"] == [8]
    assert problems(project.record()) == []
    code, said = verify(bundle)
    assert code == 0, said
    assert "(look 2 as recorded, alpha 0.025; by e-values, rows added 1 time at look 1)" in said

    record = json.loads((bundle / "record.json").read_text(encoding="utf-8"))
    assert record["experiments"][0]["decision"]["growth"] == decision["growth"]
    assert list(grown(GrowthFacts.of(decision["growth"]))) == [
        "rows added 1 time at look 1, 8 rows at first: the claim is made by e-values, which hold however often rows "
        "are added"
    ]
    assert list(grown(GrowthFacts.of(None))) == []
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "\n- rests on one training: one seed cannot tell a recipe's effect from a seed's" in card


def told_rows(project: Project) -> list[str]:
    return (project.path / "eval.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
