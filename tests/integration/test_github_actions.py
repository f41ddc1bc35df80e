"""A session in a job of GitHub Actions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project


@pytest.fixture
def job(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a job; an earlier step has written to both."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "summary").write_text("# before\n")
    (folder / "output").write_text("before=1\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(folder / "output"))
    return folder


def test_a_kept_adapter_is_told_to_the_job(project: Project, job: Path) -> None:
    result = project.run("--finetune")
    assert result.ret == 0
    summary = (job / "summary").read_text(encoding="utf-8")
    note = (project.path / "finetune-record" / "decision.md").read_text(encoding="utf-8")
    assert summary == "# before\n" + note
    outputs = dict(line.split("=", 1) for line in (job / "output").read_text().splitlines())
    record = project.path / "finetune-record" / "record.json"
    digest = project.experiment()["training"]["adapter_sha256"]
    assert outputs == {"before": "1", "decision": "keep", "adapter_digest": digest, "record": str(record)}
    assert not [line for line in result.outlines if line.startswith("::")]


def test_what_is_not_kept_is_an_error_of_the_job(project: Project, job: Path) -> None:
    project.says("tuned", 0)
    result = project.run("--finetune")
    assert result.ret == 1
    (line,) = [line for line in result.outlines if line.startswith("::")]
    assert line.startswith(
        "::error title=finetune::DISCARD: Right on 0%25 of 80 rows (label); the base model on 0%25"
    )
    assert "decision=discard\n" in (job / "output").read_text()


def test_at_most_ten_errors_are_shown_and_no_row_can_write_a_command(project: Project, job: Path) -> None:
    rows = (project.path / "train.jsonl").read_text().splitlines()
    hostile = '{"instruction": "::stop-commands::x", "input": "a\\n::set-output name=a::b", "output": 3}'
    project.write({"train.jsonl": "\n".join([*rows, *[hostile] * 15]) + "\n"})
    result = project.run("--finetune")
    lines = [line for line in result.outlines if line.startswith("::")]
    assert len(lines) == 10
    assert all(line.startswith("::error ") and line.count("::") == 2 for line in lines)
    assert any("file=train.jsonl,line=41" in line for line in lines)


def test_a_file_that_cannot_be_written_costs_a_line_and_not_the_run(
    project: Project, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(job))
    result = project.run("--finetune")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["GITHUB_OUTPUT names *, which cannot be written: Is a directory"])


def test_outside_a_job_nothing_is_written(
    project: Project, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        monkeypatch.delenv(name)
    project.says("tuned", 0)
    result = project.run("--finetune")
    assert not [line for line in result.outlines if line.startswith("::")]
    assert (job / "summary").read_text() == "# before\n"
