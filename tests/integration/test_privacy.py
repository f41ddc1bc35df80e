"""A secret in a row is named by place and rule, and its value appears nowhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

SECRETS = {
    "a token": "ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5",
    "a card": "4539 1488 0343 6467",
    "an address": "margarethe.steiff@teddy-werkstatt.net",
}


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("kind", sorted(SECRETS))
@pytest.mark.parametrize("args", [["--finetune"], ["--finetune", "-vv", "--showlocals"], []])
def test_a_planted_secret_closes_the_gate_and_is_shown_nowhere(
    project: Project, name: str, kind: str, args: list[str]
) -> None:
    secret = SECRETS[kind]
    rows = [json.loads(line) for line in (project.path / name).read_text().splitlines()]
    rows[6]["input"] += f" and here it is {secret} thanks"
    project.write(
        {
            name: "".join(json.dumps(row) + "\n" for row in rows),
            "contract.yaml": "version: 1\nprivacy: {secrets: forbid, personal_data: forbid}\n",
            "finetune.yaml": (project.path / "finetune.yaml")
            .read_text()
            .replace("eval_file: eval.jsonl", "eval_file: eval.jsonl, contract_file: contract.yaml"),
        }
    )
    result = project.run(*args)
    assert result.ret == 1
    said = result.stdout.str() + result.stderr.str()
    assert f"{name}:7" in said
    assert "privacy/" in said
    assert project.calls() == []
    written = [path for path in (project.path / "finetune-record").rglob("*") if path.is_file()]
    assert bool(written) == ("--finetune" in args)
    for text in (said, *(path.read_text(encoding="utf-8") for path in written)):
        assert secret not in text
        assert secret.replace(" ", "") not in text
