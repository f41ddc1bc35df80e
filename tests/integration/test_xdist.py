"""Under pytest-xdist: one experiment, one worker, and the same record as in a serial run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conftest import Project

# Measured anew in each run.
TIMES = {"seconds", "created", "command", "free_bytes", "usable_bytes", "disk_free_bytes"}


def timeless(value: Any) -> Any:
    """Return a record without what differs between any two runs."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_two_workers_write_the_record_of_a_serial_run(project: Project) -> None:
    project.run("--finetune", subprocess=True)
    project.run("--finetune", subprocess=True)
    serial = project.record()
    result = project.run("--finetune", "-n", "2", subprocess=True)
    assert result.ret == 0
    parallel = project.record()
    for one, other in zip(parallel["experiments"], serial["experiments"], strict=True):
        for part in one | other:
            assert timeless(one.get(part)) == timeless(other.get(part)), part
    key = lambda test: test["nodeid"]  # noqa: E731
    assert sorted(timeless(parallel["tests"]), key=key) == sorted(timeless(serial["tests"]), key=key)
    result.stdout.fnmatch_lines(["*KEEP*"])


def test_an_experiment_stays_on_one_worker_and_trains_once(project: Project) -> None:
    project.write(
        {"test_other.py": "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_n(n): pass\n"}
    )
    result = project.run("--finetune", "-n", "2", "-v", subprocess=True)
    assert result.ret == 0
    assert project.calls() == ["train", "answer tuned", "answer baseline"]
    workers = {line.split()[0] for line in result.outlines if "PASSED" in line and "test_other" not in line}
    assert len(workers) == 1
    assert not any("@" in line.split("PASSED")[1] for line in result.outlines if "PASSED" in line)


def test_a_closed_gate_is_closed_under_xdist_too(project: Project) -> None:
    project.write({"train.jsonl": "not json\n"})
    result = project.run("--finetune", "-n", "2", subprocess=True)
    result.assert_outcomes(failed=1, errors=3)
    assert project.calls() == []
