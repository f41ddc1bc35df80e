"""Under `pytest -n` each worker has a GPU of its own; the driver is a stand-in, workers and locks are real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Project

PYNVML = """
import os
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return int(os.environ["GPUS"])
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetHandleByUUID(uuid): return "abcd".index(uuid[-1])
def nvmlDeviceGetUUID(handle): return f"GPU-{'abcd'[handle]}"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=(24 + handle) << 30, free=20 << 30)
def nvmlDeviceGetCudaComputeCapability(handle): return (8, 9)
def nvmlDeviceGetName(handle): return "NVIDIA L4"
def nvmlSystemGetDriverVersion(): return "580.82"
def nvmlSystemGetCudaDriverVersion_v2(): return 13010
def nvmlDeviceGetComputeRunningProcesses(handle): return []
def nvmlDeviceGetGraphicsRunningProcesses(handle): return []
"""
# The torch of these tests knows no CUDA; nothing is planned, which would take seconds.
BUILD = """
import os
import pytest
from pytest_finetune.memory.hardware import detect
from pytest_finetune.suite.steps import planning
detect.torch_build = lambda: {"cuda": "13.0"}
planning.plan_memory = lambda *args, **kwargs: pytest.fail("not planned")
"""
# A training goes on when every worker is about to need its GPU.
TRAIN = """\
    called(f"train on {request.device}, visible {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    import time
    until = time.monotonic() + 200
    while LOG.read_text().count("ready") < 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
"""
READY = """
def pytest_runtest_teardown(item):
    if item.name.startswith("test_contract"):
        called("ready")
"""
FIT = """
import pytest

@pytest.mark.oom_fit
def test_card(gpu_budget):
    assert gpu_budget.total_bytes == TOTAL << 30
"""


@pytest.fixture
def machine(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project on a machine with two GPUs, with two experiments whose trainings name their device."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "pynvml.py").write_text(PYNVML)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "driver"), prepend=":")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    text = (project.path / "finetune.yaml").read_text()
    files = {f"r{rank}.yaml": text.replace("{r: 4}", f"{{r: {rank}}}") for rank in (2, 3)}
    project.write(files | {"pytest.ini": f"[pytest]\nfinetune_experiments = {' '.join(files)}\n"})
    conftest = (project.path / "conftest.py").read_text()
    train = '    called("train")\n'
    assert conftest.count(train) == 1
    project.write({"conftest.py": BUILD + conftest.replace(train, TRAIN) + READY})
    return project


def trained(project: Project) -> list[str]:
    return sorted(call for call in project.calls() if call.startswith("train"))


def test_two_workers_train_on_two_gpus_and_the_record_names_them(machine: Project, tmp_path: Path) -> None:
    result = machine.run("--finetune", "-n", "2", subprocess=True)
    assert result.ret == 0
    assert trained(machine) == ["train on cuda, visible 0", "train on cuda, visible 1"]
    leases = [experiment["hardware"]["lease"] for experiment in machine.record()["experiments"]]
    assert sorted(lease["uuid"] for lease in leases) == ["GPU-a", "GPU-b"]
    assert sorted(lease["cuda_visible_devices"] for lease in leases) == ["0", "1"]
    page = (machine.path / "finetune-record" / "report.html").read_text()
    assert "GPU-a" in page
    (folder,) = (tmp_path / "tmp").glob("pytest-finetune-leases-*")
    assert list(folder.iterdir()) == []


def test_a_worker_without_a_gpu_says_whom_it_waits_for_and_goes_on_when_that_one_is_done(
    machine: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    result = machine.run("--finetune", "-n", "2", subprocess=True)
    assert result.ret == 0
    assert trained(machine) == ["train on cuda, visible GPU-b"] * 2
    said = [line for line in result.errlines if "waiting for GPU-b, locked by process " in line]
    assert len(said) == 1
    assert said[0].startswith("[gw")


def test_tests_that_need_no_gpu_wait_for_none(machine: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "1")
    machine.write({"test_other.py": "def test_other(): pass\n"})
    result = machine.run("--finetune", "-n", "3", "-k", "contract or other", subprocess=True)
    result.assert_outcomes(passed=3)
    assert "waiting" not in result.stderr.str()
    assert all("lease" not in experiment["hardware"] for experiment in machine.record()["experiments"])


def test_a_gpu_that_is_asked_for_by_number_is_leased_and_its_budget_counts(machine: Project) -> None:
    """The second GPU of the machine is larger by one GiB."""
    machine.write({"test_fit.py": FIT.replace("TOTAL", "25")})
    result = machine.run("--finetune", "-n", "2", "--finetune-device=cuda:1", subprocess=True)
    assert result.ret == 0
    assert trained(machine) == ["train on cuda, visible 1"] * 2
    totals = [experiment["hardware"]["total_bytes"] for experiment in machine.record()["experiments"]]
    assert totals == [25 << 30] * 2


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_number_beyond_the_visible_gpus_is_a_usage_error(
    machine: Project, workers: tuple[str, ...]
) -> None:
    result = machine.run("--finetune", "--finetune-device=cuda:2", *workers, subprocess=True)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "--finetune-device=cuda:2: only cuda:0 to cuda:1 are visible here (see CUDA_VISIBLE_DEVICES)"
    assert said in result.stderr.str()


def test_without_workers_nothing_is_leased(machine: Project, tmp_path: Path) -> None:
    result = machine.run("--finetune", "--finetune-device=cuda:1", subprocess=True)
    assert result.ret == 0
    assert trained(machine) == ["train on cuda:1, visible None"] * 2
    assert list((tmp_path / "tmp").glob("pytest-finetune-leases-*")) == []


GPU_TESTS = """
import os, time
import pytest

@pytest.mark.gpu(min_gib=8)
@pytest.mark.parametrize("n", range(4))
def test_alone(n):
    with open("seen.log", "a") as log:
        log.write(f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
    until = time.monotonic() + 200
    while len(set(open("seen.log").read().splitlines())) < 2 and time.monotonic() < until:
        time.sleep(0.05)

@pytest.mark.gpu(min_gib=80)
def test_large():
    pass
"""


def test_a_test_marked_gpu_has_one_for_its_worker(machine: Project) -> None:
    machine.write({"test_gpu.py": GPU_TESTS})
    result = machine.run("-n", "2", "-rs", "test_gpu.py", subprocess=True)
    result.assert_outcomes(passed=4, skipped=1)
    seen = {tuple(line.split()) for line in (machine.path / "seen.log").read_text().splitlines()}
    assert len(seen) == 2
    assert {word for _, word in seen} == {"0", "1"}
    result.stdout.fnmatch_lines(["*needs an accelerator of 80 GiB; NVIDIA L4 has 2?.0 GiB*"])


FOREIGN = """
import sys, time
import pytest

@pytest.mark.parametrize("n", range(4))
def test_foreign(n):
    time.sleep(0.1)
    assert not [name for name in sys.modules if name.startswith(("pytest_finetune.memory", "pynvml"))]
"""


def test_a_suite_that_is_not_ours_is_left_alone(machine: Project, tmp_path: Path) -> None:
    for file in (*machine.path.glob("*.py"), *machine.path.glob("*.yaml"), machine.path / "pytest.ini"):
        file.unlink()
    machine.write({"test_foreign.py": FOREIGN})
    machine.run("-n", "2", subprocess=True).assert_outcomes(passed=4)
    assert list((tmp_path / "tmp").glob("pytest-finetune-leases-*")) == []
