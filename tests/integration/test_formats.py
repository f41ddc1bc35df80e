"""Whether an opponent speaks the format at all is told apart from how it judges, and the base is asked under a grammar."""

from __future__ import annotations

import json
from collections.abc import Callable

import llguidance  # noqa: F401 (an extension module that refuses to be loaded twice)
import pytest

from .bundles import FIT
from .conftest import Project, expected, row_id
from .test_noise_and_prompts import CONSTRAINED, SCHEMA


def with_contract(project: Project, generation: str = "max_new_tokens: 8") -> None:
    yaml = (project.path / "finetune.yaml").read_text()
    yaml = yaml.replace("max_new_tokens: 8", generation)
    yaml = yaml.replace("paths: {", "paths: {contract_file: contract.yaml, ")
    project.write({"contract.yaml": SCHEMA, "finetune.yaml": yaml})


def weak(project: Project) -> list[str]:
    return [risk for risk in project.experiment()["decision"]["risks"] if "speaks the format" in risk]


def test_a_keep_over_a_base_that_speaks_no_json_says_so(project: Project) -> None:
    assert project.run("--finetune").ret == 0
    found = project.experiment()["arms"]
    assert found["baseline"]["format"] == {
        "readable": 0,
        "total": 80,
        "interval": found["baseline"]["rules"]["label"]["interval"],
        "told_by": "training outputs",
        "primary": None,
    }
    tuned = found["tuned"]["format"]["primary"]
    assert (tuned["passed"], tuned["total"]) == (
        found["tuned"]["rules"]["label"]["passed"],
        found["tuned"]["format"]["readable"],
    )
    assert found["majority"]["format"]["primary"]["rate"] == 0.25
    assert weak(project) == [
        "the base model speaks the format on 0 of 80 rows, so beating it shows a format and not a judgement; chance "
        "stands at 25%: ask it under constrained decoding (write output.schema or labels into the contract)"
    ]


def test_an_opponent_that_speaks_the_format_on_half_of_the_rows_is_not_weak(project: Project) -> None:
    project.answers["baseline"] = {
        row_id(i): expected(i if i < 20 else i + 1) if i < 40 else "prose" for i in range(project.rows)
    }
    project.save()
    result = project.run("--finetune")
    assert result.ret == 0
    found = project.experiment()["arms"]["baseline"]["format"]
    assert (found["readable"], found["total"], found["primary"]["passed"]) == (40, 80, 20)
    assert weak(project) == []
    result.stdout.fnmatch_lines(["*base speaks the format on 40 of 80 rows; right on 20 of those (50%)*"])
    note = (project.path / "finetune-record" / "decision.md").read_text()
    assert "base speaks the format on 40 of 80 rows" in note
    page = (project.path / "finetune-record" / "report.html").read_text()
    assert "Format apart from judgement" in page


def test_free_text_has_no_format(project: Project) -> None:
    lines = (project.path / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    free = [{**row, "output": f"about {row['input']}"} for row in rows]
    project.write({"train.jsonl": "".join(json.dumps(row) + "\n" for row in free)})
    project.run("--finetune")
    assert all("format" not in arm for arm in project.experiment()["arms"].values())


def test_a_base_that_can_be_held_to_the_contract_is_without_being_asked_for(project: Project) -> None:
    project.says("constrained", 20, other='{"label": "low!"}')
    project.answers["cut"] = 0
    project.save()
    with_contract(project)
    project.write({"conftest.py": CONSTRAINED})
    assert project.run("--finetune").ret == 0
    record = project.experiment()
    assert record["planned_arms"]["constrained"]["opponent"]
    assert record["arms"]["constrained"]["rules"]["label"]["passed"] == 20
    assert record["config"]["generation"]["constrain"] is None
    assert weak(project) == []
    project.run("--finetune")
    assert project.experiment()["decision"]["looks"] == 1


@pytest.mark.parametrize(
    ("runtime", "generation"),
    [
        (CONSTRAINED, "max_new_tokens: 8, constrain: false"),
        (CONSTRAINED.replace("constrains = True", "pass"), "max_new_tokens: 8"),
    ],
)
def test_no_constrained_arm_where_it_is_turned_off_or_the_runtime_cannot(
    project: Project, runtime: str, generation: str
) -> None:
    with_contract(project, generation)
    project.write({"conftest.py": runtime})
    assert project.run("--finetune").ret == 0
    assert "constrained" not in project.experiment()["planned_arms"]
    (risk,) = weak(project)
    assert risk.endswith("under constrained decoding (generation: {constrain: contract})")


def test_a_bundle_with_the_arm_that_nobody_asked_for_verifies_and_is_judged_again(
    project: Project, verify: Callable[..., tuple[int, str]]
) -> None:
    project.says("constrained", 20, other='{"label": "low!"}')
    project.answers["cut"] = 0
    project.save()
    with_contract(project)
    project.write({"conftest.py": CONSTRAINED, "test_fit.py": FIT})
    assert project.run("--finetune", "--finetune-promote").ret == 0
    code, said = verify(project.path / "artifacts" / "adapter", "--rules", project.path)
    assert code == 0, said
    assert "outcomes as recorded" in said
