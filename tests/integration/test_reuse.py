"""Retraining is compared with what it replaces; adapters of other environments are reused only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

ELSEWHERE = """
import pytest
from pytest_finetune.fingerprint import keys

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    version = (Path(__file__).parent / "torch-version").read_text()
    real = keys.installed_version
    keys.installed_version = lambda name: version if name == "torch" else real(name)
    config.add_cleanup(lambda: setattr(keys, "installed_version", real))
"""


def on_torch(project: Project, version: str) -> None:
    """Let this environment have another version of torch."""
    text = (project.path / "conftest.py").read_text()
    if ELSEWHERE not in text:
        project.write({"conftest.py": text + ELSEWHERE})
    project.write({"torch-version": version})


def test_a_retraining_that_changes_nothing_says_so(project: Project) -> None:
    project.run("--finetune")
    result = project.run("--finetune", "--finetune-retrain")
    retrained = project.experiment()["training"]["retrained"]
    assert retrained["same_weights"] is True
    assert retrained["largest_difference"] == 0
    assert (retrained["answers_changed"], retrained["answers"]) == (0, 80)
    result.stdout.fnmatch_lines(["  retrained the same weights as before, byte for byte"])


def test_a_retraining_is_compared_with_the_adapter_it_replaces(project: Project) -> None:
    project.run("--finetune")
    project.answers["delta"] = 1.25
    project.answers["tuned"]["e000"] = "prose"
    project.answers["tuned"]["e001"] = "prose"
    project.save()
    result = project.run("--finetune", "--finetune-retrain")
    training = project.experiment()["training"]
    assert training["reused"] is False
    assert training["retrained"]["same_weights"] is False
    assert training["retrained"]["largest_difference"] == 0.25
    assert training["retrained"]["answers_changed"] == 2
    result.stdout.fnmatch_lines(["  retrained weights differ by at most 0.25; 2 of 80 answers changed"])
    assert project.record()["notes"] == []


def test_another_environment_trains_anew_unless_asked_otherwise(project: Project) -> None:
    on_torch(project, "2.12.0")
    project.run("--finetune")
    first = project.experiment()
    on_torch(project, "2.13.0")
    result = project.run("--finetune", "--finetune-reuse=semantic")
    assert result.ret == 0
    experiment = project.experiment()
    training = experiment["training"]
    assert (training["reused"], training["reuse"]) == (True, "semantic")
    assert training["reused_from"] == {"environment.torch": ["2.12.0", "2.13.0"]}
    assert training["adapter_key"] == first["key"] != experiment["key"]
    result.stdout.fnmatch_lines(["  reused    from another environment: torch 2.12.0 -> 2.13.0"])
    # The answers are this environment's own: all arms were asked again.
    assert project.calls() == ["train", "answer tuned", "answer baseline", "answer tuned", "answer baseline"]

    project.run("--finetune")
    assert "train" in project.calls()
    assert project.experiment()["training"]["reuse"] is None


def test_an_adapter_of_another_environment_is_promoted_on_answers_produced_here(project: Project) -> None:
    project.write({"test_fit.py": FIT})
    on_torch(project, "2.12.0")
    project.run("--finetune")
    on_torch(project, "2.13.0")
    result = project.run("--finetune", "--finetune-reuse=semantic", "--finetune-promote")
    result.stdout.fnmatch_lines(["promoted: *"])


def test_an_adapter_of_another_environment_is_not_promoted_on_answers_from_there(project: Project) -> None:
    project.write({"test_fit.py": FIT})
    on_torch(project, "2.12.0")
    project.run("--finetune")
    on_torch(project, "2.13.0")
    project.write({"as_if_there.py": AS_IF_ANSWERED_THERE})
    asked = ("--finetune", "--finetune-reuse=semantic", "--finetune-promote", "-p", "as_if_there")
    result = project.run(*asked, subprocess=True)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "not promoted: finetune: the adapter comes from another environment, and the answers of * were not "
            "produced in this one*"
        ]
    )


def test_reuse_and_retrain_contradict_each_other(project: Project) -> None:
    result = project.run("--finetune", "--finetune-retrain", "--finetune-reuse=semantic")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--finetune-reuse=semantic contradicts --finetune-retrain, which reuses nothing*"]
    )


FIT = """\
import pytest

@pytest.mark.oom_fit
def test_fits(experiment):
    assert experiment.training.max_seq_length < 4096
"""

# A session that keys its answers by the old environment: what a fault in the key would do.
AS_IF_ANSWERED_THERE = """
import dataclasses
from pytest_finetune.suite.steps import answering
resolve = answering.resolve
def there(*args):
    arm = resolve(*args)
    return dataclasses.replace(arm, environment={**arm.environment, "torch": "2.12.0"})
answering.resolve = there
"""
