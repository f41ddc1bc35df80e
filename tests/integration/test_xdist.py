"""Under pytest-xdist: one experiment, one worker, and the same record as in a serial run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.record.validate import problems

from .conftest import DATA
from .test_outcomes import crash, discard, gate_closed, interrupt, properties

if TYPE_CHECKING:
    from .conftest import Project

# Measured anew in each run.
TIMES = {"seconds", "timings", "created", "command", "free_bytes", "usable_bytes", "disk_free_bytes"}


def timeless(value: Any) -> Any:
    """Return a record without what differs between any two runs."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_two_workers_write_the_record_of_a_serial_run(project: Project) -> None:
    project.run("--finetune")
    project.run("--finetune", "--junitxml=junit.xml")
    serial, facts = project.record(), [properties(project, test) for test in ("test_label", "test_keep")]
    result = project.run("--finetune", "-n", "2", "--junitxml=junit.xml")
    assert result.ret == 0
    assert [properties(project, test) for test in ("test_label", "test_keep")] == facts
    parallel = project.record()
    found, wanted = timeless(parallel["experiments"]), timeless(serial["experiments"])
    for one, other in zip(found, wanted, strict=True):
        for part in one | other:
            assert one.get(part) == other.get(part), part
    key = lambda test: test["nodeid"]  # noqa: E731
    assert sorted(timeless(parallel["tests"]), key=key) == sorted(timeless(serial["tests"]), key=key)
    result.stdout.fnmatch_lines(["*KEEP*"])


def without_place(record: dict[str, Any], store: str) -> Any:
    """Return a record without times and without the name of its store."""
    return timeless(json.loads(json.dumps(record).replace(store, "STORE")))


@pytest.mark.parametrize("end", [discard, gate_closed, crash], ids=lambda end: str(end.__name__))
def test_however_it_ends_two_workers_write_the_record_of_a_serial_run(
    project: Project, end: Callable[[Project], None]
) -> None:
    end(project)
    records = []
    for store, workers in (("store-serial", ()), ("store-parallel", ("-n", "2"))):
        result = project.run("--finetune", f"--finetune-store={store}", *workers)
        assert result.ret == 1
        record = project.record()
        assert problems(record) == []
        record["tests"].sort(key=lambda test: test["nodeid"])
        records.append(without_place(record, store))
    serial, parallel = records
    assert serial == parallel
    assert serial["experiments"][0]["decision"]["verdict"] == ("discard" if end is discard else "iterate")


def test_an_interrupted_worker_leaves_a_record_that_keeps_its_schema(project: Project) -> None:
    interrupt(project)
    result = project.run("--finetune", "-n", "2")
    record = project.record()
    assert result.ret == record["exit_status"] == 2
    assert problems(record) == []
    (experiment,) = record["experiments"]
    assert experiment["training"] is None
    assert experiment["decision"] is None or experiment["decision"]["undecided"]
    result.stdout.fnmatch_lines(["record: finetune-record/report.html"])


def test_an_experiment_stays_on_one_worker_and_trains_once(project: Project) -> None:
    project.write(
        {"test_other.py": "import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_n(n): pass\n"}
    )
    result = project.run("--finetune", "-n", "2", "-v")
    assert result.ret == 0
    assert project.calls() == ["train", "answer tuned", "answer baseline"]
    workers = {line.split()[0] for line in result.outlines if "PASSED" in line and "test_other" not in line}
    assert len(workers) == 1
    assert not any("@" in line.split("PASSED")[1] for line in result.outlines if "PASSED" in line)


def test_a_closed_gate_is_closed_under_xdist_too(project: Project) -> None:
    project.write({"train.jsonl": "not json\n"})
    result = project.run("--finetune", "-n", "2")
    result.assert_outcomes(failed=1, errors=3)
    assert project.calls() == []


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["serial", "two workers"])
def test_a_session_begins_with_its_first_test_where_nothing_else_speaks_of_it(
    project: Project, workers: tuple[str, ...]
) -> None:
    marked = DATA.replace(
        "@pytest.mark.data_contract", "@pytest.mark.data_contract\n@pytest.mark.finetune('small.yaml')"
    )
    project.write({"small.yaml": (project.path / "finetune.yaml").read_text(), "test_small.py": marked})
    (project.path / "finetune.yaml").unlink()
    result = project.run(*workers, "test_small.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= finetune =*", "*small*"])
