"""What the held-out file can show stands in every run, and before a training that could not be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_finetune.judging.statistics.plan import Plan

from .conftest import make_project

if TYPE_CHECKING:
    import pytest

    from .conftest import Project


def test_a_plain_run_says_which_gain_the_file_can_show(project: Project) -> None:
    rules = (project.path / "test_rules.py").read_text().replace("min_gain=0.1", "min_gain=0.3")
    project.write({"test_rules.py": rules})
    said = " ".join(" ".join(project.run().outlines).split())
    assert f"power {Plan(80, 0.3).line}" in said
    assert "would be proven in" not in said


def test_a_gate_that_would_hardly_open_is_named_before_the_training(project: Project) -> None:
    result = project.run("--finetune")
    said = " ".join(" ".join(result.outlines).split())
    assert f"warning: finetune: {Plan(80, 0.1).line}" in said
    assert "A true gain of 10 points would be proven in" in said
    power = project.experiment()["power"]
    assert (power["rule"], power["min_gain"], power["opens"], power["rows"]) == ("label", 0.1, False, 80)
    again = project.run("--finetune")
    assert "warning: finetune" not in again.stdout.str()


def test_three_rows_cannot_open_the_gate_and_a_fit_run_says_so(pytester: pytest.Pytester) -> None:
    project = make_project(pytester, rows=3)
    said = " ".join(" ".join(project.run().outlines).split())
    assert "power keep impossible: 3 held-out rows cannot prove any gain" in said
