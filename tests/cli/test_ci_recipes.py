"""The CI recipes keep the published schemas, know only flags that exist, and keep the write token from the tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "docs" / "ci"
GITHUB, GITLAB = RECIPES / "github-actions.yml", RECIPES / "gitlab-ci.yml"


def recipe(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("path", "schema"), [(GITHUB, "vendor.github-workflows"), (GITLAB, "vendor.gitlab-ci")]
)
def test_a_recipe_keeps_the_published_schema(path: Path, schema: str) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    if schema == "vendor.gitlab-ci":
        command += ["--data-transform", "gitlab-ci"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", [GITHUB, GITLAB, RECIPES / "README.md"])
def test_every_flag_of_a_recipe_exists(path: Path, pytestconfig: pytest.Config) -> None:
    known = {
        option
        for group in pytestconfig._parser._groups
        for argument in group.options
        for option in argument.names()
    }
    used = set(re.findall(r"--finetune[\w-]*", path.read_text(encoding="utf-8")))
    assert used
    assert used <= known


def test_the_job_that_runs_the_tests_holds_no_token() -> None:
    workflow = recipe(GITHUB)
    judge = workflow["jobs"]["judge"]
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in judge
    assert "secrets." not in yaml.safe_dump(judge)
    assert judge["steps"][0]["with"] == {"persist-credentials": False}


def test_the_job_that_holds_the_token_verifies_before_it_uploads_and_runs_no_test() -> None:
    publish = recipe(GITHUB)["jobs"]["publish"]
    commands = [step.get("run", "") for step in publish["steps"]]
    verify = next(at for at, command in enumerate(commands) if "pytest-finetune verify" in command)
    upload = next(at for at, command in enumerate(commands) if "pytest-finetune push" in command)
    compare = next(at for at, command in enumerate(commands) if "adapter_sha256" in command)
    assert verify < compare < upload
    assert not any(re.search(r"\bpytest (--|$)", command) for command in commands)
    assert not any("checkout" in step.get("uses", "") for step in publish["steps"])

    script = recipe(GITLAB)["publish"]["script"]
    assert script.index("pytest-finetune verify artifacts/adapter") < len(script) - 1
    assert script[-1].startswith("pytest-finetune push artifacts/adapter --to ")
