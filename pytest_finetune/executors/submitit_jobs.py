"""Slurm, and its stand-ins on one machine, through submitit: the job runs the step in a process of its own."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from pytest_finetune.errors import install
from pytest_finetune.executors.protocol import ExecutorError, Seen, Submission
from pytest_finetune.yamlfile import Json

KINDS: Final = ("slurm", "local", "debug")
FOLDER: Final = ".finetune-cache/submitit"
_SEALING_S: Final = 600.0
_JOB_ID: Final = re.compile(r"[0-9]+(_[0-9]+)?")
_WAITING: Final = frozenset(
    {"PENDING", "REQUEUED", "CONFIGURING", "RESIZING", "SUSPENDED", "REQUEUE_HOLD", "READY"}
)
_STUCK: Final = re.compile(
    r"\w*requeued_held|BadConstraints|DependencyNeverSatisfied|InvalidAccount|InvalidQOS"
)
"""Reasons for which Slurm holds a job, or starts it never, until somebody changes it."""
_ASKED_EVERY_S: Final = 15.0
_RUNNING: Final = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"})
_ENDED: Final[Mapping[str, str]] = {
    "TIMEOUT": "reached its time limit",
    "PREEMPTED": "was preempted and not put into the queue again",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node",
    "OUT_OF_MEMORY": "was killed for its main memory",
    "CANCELLED": "was cancelled",
    "REVOKED": "was cancelled",
    "DEADLINE": "reached its deadline",
}


class Stepping:
    """What the job calls; submitit writes it, words and nothing else, into a folder of its own beside the project."""

    def __init__(self, words: tuple[str, ...], project: str) -> None:
        self.words, self.project = words, project
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the step, and return its exit code: what came of it stands in the store."""
        self.process = subprocess.Popen(self.words, cwd=self.project)
        return self.process.wait()

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Let the step seal a checkpoint before its time is up or its place is taken, and ask for another one."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None and not _has_ended(self.process.pid):
            os.kill(self.process.pid, signal.SIGTERM)
            until = time.monotonic() + _SEALING_S
            while not _has_ended(self.process.pid) and time.monotonic() < until:
                time.sleep(0.1)
        return DelayedSubmission(Stepping(self.words, self.project))


def _has_ended(pid: int) -> bool:
    """Tell whether a child has ended, and leave it to whoever waits for it.

    submitit calls `checkpoint` from a signal's handler, in the middle of the waiting above, which holds Popen's lock:
    all that asks Popen there waits in vain.
    """
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


class SubmititExecutor:
    """Sends steps to Slurm (`slurm`), to processes of this machine (`local`), or runs them in this one (`debug`)."""

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise ExecutorError(
                f"finetune_executor: submitit:{kind} is not known: write {', '.join(KINDS)} after it"
            )
        try:
            import submitit
        except ImportError:
            raise ExecutorError(
                f"finetune_executor: submitit needs a package that is not installed: {install('submitit')}"
            ) from None
        self._submitit, self._kind = submitit, kind
        self._jobs: dict[str, Any] = {}
        self._told: dict[str, tuple[float, Told]] = {}

    @property
    def name(self) -> str:
        """The word by which it is chosen."""
        return f"submitit:{self._kind}"

    def script(self, step: Submission) -> str:
        """Return the batch script's directives and the command that the job runs."""
        lines = [f"#SBATCH --{name}={value}" for name, value in _directives(step).items()]
        given = [f"# {name}: {value}" for name, value in step.resources.engine.items()]
        return "\n".join([f"# submitit:{self._kind}", *lines, *given, shlex.join(_words(step))])

    def submit(self, step: Submission) -> Mapping[str, Any]:
        """Submit the job with the resources of the step, what the experiment passes through last."""
        folder = step.project / FOLDER / step.key[:16]
        try:
            executor = self._submitit.AutoExecutor(folder=str(folder), cluster=self._kind)
            executor.update_parameters(**_parameters(step, self._kind))
            job = executor.submit(Stepping(_words(step), str(step.project)))
            if self._kind == "debug":
                job.result()
            if self._kind == "local":  # somebody has to see it end, or Python warns of it as of one forgotten
                threading.Thread(target=job._process.wait, name="finetune-job", daemon=True).start()
        except Exception as error:  # submitit, sbatch and the shell have errors of their own
            said = (str(error).splitlines() or [""])[0][:300]
            raise ExecutorError(
                f"submitit:{self._kind} did not take the job: {type(error).__name__}: {said}: see executor.submitit"
            ) from None
        self._jobs[step.key] = job
        return {"id": str(job.job_id)}

    def look(self, step: Submission, ticket: Json) -> Seen:
        """Ask the engine for the job's state."""
        job = self._job(step, ticket)
        if job is None:
            return Seen("unknown")
        state, id_ = _state(job), str(job.job_id)
        if (
            self._kind == "slurm" and state == "UNKNOWN"
        ):  # a cluster without accounting, or a job too young for it
            state = self._told_by_slurm(id_, every_s=0).state
        if state in _WAITING:
            return _waiting(id_, self._told_by_slurm(id_).reason if self._kind == "slurm" else "")
        if state in _RUNNING:
            return Seen("running")
        if state in {"UNKNOWN", "NO"}:  # "no process and no result": started by another pytest
            return Seen("unknown")
        return Seen("ended", why=_ENDED.get(state, ""))

    def _told_by_slurm(self, id_: str, every_s: float = _ASKED_EVERY_S) -> Told:
        """Return what the controller says of a job; it is not asked more often than need be, as many ask it."""
        asked_s, told = self._told.get(id_, (-math.inf, Told()))
        if time.monotonic() - asked_s >= every_s:
            told = _told_by_scontrol(id_)
            self._told[id_] = time.monotonic(), told
        return told

    def output(self, step: Submission, ticket: Json) -> str:
        """Return what the job has printed."""
        job = self._job(step, ticket)
        if job is None:
            return ""
        return "\n".join(filter(None, (_text(job.paths.stdout), _text(job.paths.stderr))))

    def cancel(self, step: Submission, ticket: Json) -> None:
        """Cancel the job."""
        job = self._job(step, ticket)
        if job is not None:
            with suppress(Exception):
                job.cancel()

    def _job(self, step: Submission, ticket: Json) -> Any | None:
        """Return the job that was submitted here, or one that an earlier pytest has submitted, by its number alone."""
        if step.key in self._jobs:
            return self._jobs[step.key]
        id_ = str(ticket.get("id"))
        if not _JOB_ID.fullmatch(id_) or self._kind == "debug":
            return None
        folder = step.project / FOLDER / step.key[:16]
        kind = self._submitit.SlurmJob if self._kind == "slurm" else self._submitit.LocalJob
        return kind(folder=folder, job_id=id_)


def _state(job: Any) -> str:
    """Return the first word of a job's state; a daemon that is down may be back."""
    try:
        return str(job.state).upper().split()[0]
    except Exception:
        return "UNKNOWN"


class Told(NamedTuple):
    """What Slurm's controller says of a job: its state, and why it waits, in one word."""

    state: str = "UNKNOWN"
    reason: str = ""


def _told_by_scontrol(id_: str) -> Told:
    """Ask the controller itself, which knows a job for some minutes after its end."""
    try:
        asked = subprocess.run(
            ["scontrol", "show", "job", "-o", id_], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return Told()
    found = re.search(r"\bJobState=([A-Z_]+)(?: Reason=(\S+))?", asked.stdout)
    return Told() if found is None else Told(found[1], "" if found[2] in {None, "None"} else found[2])


def _waiting(id_: str, reason: str) -> Seen:
    """Return that a job waits, with Slurm's reason; one that nobody would ever start has ended."""
    said = reason.replace("_", " ")
    if not _STUCK.fullmatch(reason):
        return Seen("waiting", why=said)
    why = f"waits in Slurm for what will not come ({said}): job {id_} was not started"
    do = (
        f"mend what Slurm names (scontrol show job {id_}; of a launch that failed, slurmd's log tells why, and "
        f"executor.submitit: {{exclude: NODE}} leaves its node out), scancel {id_}, and run the same pytest again"
    )
    return Seen("ended", why=why, do=do)


def _words(step: Submission) -> tuple[str, ...]:
    """Return the step's command for the Python of this environment, which the nodes of a cluster share."""
    return (sys.executable, "-m", "pytest_finetune", *step.words[1:], "--rootdir", str(step.project))


def _directives(step: Submission) -> dict[str, object]:
    need = step.resources
    found: dict[str, object] = {"job-name": _job_name(step), "time": need.minutes, "mem": f"{need.memory}GB"}
    if need.gpus and "gres" not in need.engine:
        found["gpus-per-node"] = need.gpus
    return found


def _parameters(step: Submission, kind: str) -> dict[str, Any]:
    """Return submitit's own names; what the experiment passes through wins over what we work out."""
    need = step.resources
    found: dict[str, Any] = {"name": _job_name(step), "timeout_min": need.minutes}
    if kind == "slurm":
        own_gpus = need.gpus and "gres" not in need.engine
        found |= {"mem_gb": need.memory, **({"gpus_per_node": need.gpus} if own_gpus else {})}
        found |= {f"slurm_{name}": value for name, value in need.engine.items()}
    return found


def _job_name(step: Submission) -> str:
    return "finetune-" + re.sub(r"[^0-9A-Za-z]+", "-", step.what).strip("-")[:40]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[-64 * 1024 :]
    except OSError:
        return ""
