"""The same jobs on a real Slurm of one node, which `tests/executors/slurm/cluster.sh` starts and stops."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

CLUSTER = Path(__file__).parents[1] / "executors" / "slurm" / "cluster.sh"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
LACKING = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(bool(LACKING), reason=f"no Slurm here: {', '.join(LACKING)} is not installed (apt install "
    "slurmctld slurmd slurm-client munge)"),
    pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="a Slurm of our own needs root"),
]  # fmt: skip

EXECUTOR = (
    "executor: {memory: 1, minutes: 30, submitit: {gres: 'gpu:made:1', partition: gpu}}\ndrift: false\n"
)
# A training that waits until it is let go, and says where it is.
SLOW = """
import os, time
def pytest_finetune_train(request, _train=pytest_finetune_train):
    called("begun in " + os.environ.get("SLURM_JOB_ID", "no job"))
    while TABLE.get("slow") and not (LOG.parent / "go").exists():
        time.sleep(0.1)
    return _train(request)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Slurm below a folder; its commands find it by the environment."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield folder
    subprocess.run([CLUSTER, "stop", folder], check=True, timeout=60)


@pytest.fixture
def far(project: Project, slurm: Path) -> Project:
    """The project, sent to the cluster."""
    conftest = (project.path / "conftest.py").read_text(encoding="utf-8")
    experiment = (project.path / "finetune.yaml").read_text(encoding="utf-8")
    project.write(
        {
            "conftest.py": conftest + SLOW,
            "finetune.yaml": experiment + EXECUTOR,
            "test_adapter.py": "def test_adapter(trained_adapter): pass\n",
            "pytest.ini": "[pytest]\nfinetune_executor = submitit:slurm\n",
        }
    )
    return project


def started(project: Project) -> subprocess.Popen[str]:
    """Start a pytest of its own that asks for the adapter."""
    words = [sys.executable, "-m", "pytest", "--finetune", "-p", "no:hypothesispytest", "test_adapter.py"]
    return subprocess.Popen(
        words, cwd=project.path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def slow(project: Project) -> None:
    """Let trainings wait until the file ``go`` is there."""
    project.answers["slow"] = True
    project.save()


def begun(project: Project) -> str:
    """Wait until a training has begun in a job, and return the job's number."""
    log = project.path / "calls.log"

    def found() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[-1] for line in lines if line.startswith("begun")]

    return waited(found)[0]


def waited(found: Callable[[], list[str]], limit_s: float = 120) -> list[str]:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.2)
    raise AssertionError("no training has begun")


def queued_again(job: str) -> None:
    """Wait until a job is in the queue again, and let it start at once: Slurm would hold it back for two minutes."""
    waited(lambda: [job] if "PENDING" in asked_of("squeue", "-h", "-j", job, "-o", "%T") else [])
    subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)


def asked_of(*words: str) -> str:
    """Return what a command of Slurm prints; a job that it does not know any more is no mistake."""
    return subprocess.run(words, text=True, stdout=subprocess.PIPE, check=False).stdout


def test_a_run_trains_once_and_is_judged_by_answers_from_the_cluster(far: Project) -> None:
    assert far.run("--finetune").ret == 0
    calls = far.calls()
    assert (calls.count("train"), [call for call in calls if call == "begun in no job"]) == (1, [])
    assert far.experiment()["decision"]["verdict"] == "keep"


def test_a_cancelled_job_is_an_error_that_says_so(far: Project) -> None:
    slow(far)
    pytest_ = started(far)
    subprocess.run(["scancel", begun(far)], check=True)
    said, _ = pytest_.communicate(timeout=120)
    assert pytest_.returncode == 1
    assert "interrupted" in said or "was cancelled" in said
    assert "to do: run the same pytest again" in said or "to do: look at the engine's own log" in said


def test_a_job_that_is_put_into_the_queue_again_is_waited_for(far: Project) -> None:
    slow(far)
    pytest_ = started(far)
    job = begun(far)
    subprocess.run(["scontrol", "requeue", job], check=True)
    queued_again(job)
    (far.path / "go").touch()
    pytest_.communicate(timeout=120)
    assert pytest_.returncode == 0
    assert far.calls() == [f"begun in {job}", f"begun in {job}", "train"]


@pytest.mark.parametrize("why", ["time", "place"])
def test_a_job_whose_time_is_up_or_whose_place_is_taken_seals_its_work_and_goes_on(
    far: Project, why: str
) -> None:
    """Slurm signals the job some seconds before; the step tells that it was interrupted, and runs again."""
    slow(far)
    if why == "time":  # Slurm looks at its clock every half minute, and signals up to a minute early
        experiment = (far.path / "finetune.yaml").read_text(encoding="utf-8")
        limit = experiment.replace("minutes: 30, submitit: {", "minutes: 3, submitit: {signal_delay_s: 100, ")
        far.write({"finetune.yaml": limit})
    pytest_ = started(far)
    job = begun(far)
    if why == "place":
        words = ("-p", "urgent", "--gres=gpu:made:2", "-o", str(far.path / "urgent.log"), "--wrap", "sleep 1")
        subprocess.run(["sbatch", *words], check=True)
    queued_again(job)
    (told,) = far.path.glob(".finetune/jobs/*/1-told.json")
    assert json.loads(told.read_bytes())["state"] == "interrupted"
    (far.path / "go").touch()
    said, _ = pytest_.communicate(timeout=120)
    assert pytest_.returncode == 0, said
    assert far.calls() == [f"begun in {job}", f"begun in {job}", "train"]
    (log,) = far.path.glob(".finetune-cache/submitit/*/*_log.err")
    assert ("timed-out" if why == "time" else "preempted") in log.read_text()


def test_two_pytests_share_a_job_and_a_killed_one_comes_back_to_it(far: Project) -> None:
    slow(far)
    first = started(far)
    begun(far)
    first.kill()
    first.communicate()
    both = [started(far), started(far)]
    attached = [any("attached to the job" in line for line in one.stdout or ()) for one in both]
    assert attached == [True, True]
    (far.path / "go").touch()
    said = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert far.calls().count("train") == 1


def test_a_controller_that_goes_and_comes_back_loses_no_job(far: Project, slurm: Path) -> None:
    slow(far)
    pytest_ = started(far)
    begun(far)
    os.kill(int((slurm / "run" / "slurmctld.pid").read_text()), 15)
    time.sleep(8)
    assert pytest_.poll() is None
    subprocess.run(["slurmctld"], check=True)
    (far.path / "go").touch()
    pytest_.communicate(timeout=120)
    assert pytest_.returncode == 0
    assert far.calls().count("train") == 1


def test_a_job_whose_node_goes_down_is_waited_for_as_long_as_slurm_keeps_it(far: Project) -> None:
    slow(far)
    pytest_ = started(far)
    begun(far)
    node = asked_of("sinfo", "-h", "-o", "%n").strip()
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)
    (far.path / "go").touch()
    time.sleep(3)  # it may have come back by itself: its daemon lives
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
    pytest_.communicate(timeout=280)  # held back for two minutes, until the node is rid of the first run
    assert pytest_.returncode == 0
    assert far.calls().count("train") == 1
