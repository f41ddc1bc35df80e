"""Whole sessions whose trainings and answers run as jobs: one record, one training, errors that are no failed rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.cli import main
from pytest_finetune.executors.outcomes import OUTCOMES
from pytest_finetune.fingerprint import adapter_digest

if TYPE_CHECKING:
    from .conftest import Project

# An executor of a plugin: each job is a step in this very process, and what it does besides is told by a file.
EXECUTOR = """
from pytest_finetune import Seen

class Here:
    name = "here"

    def script(self, step):
        return " ".join(step.words)

    def submit(self, step):
        from pytest_finetune.cli import main
        called("submit")
        self.code = 0 if TABLE.get("lost") else main([*step.words[1:], "--rootdir", str(step.project)])
        return {"id": step.key}

    def look(self, step, ticket):
        return Seen("ended", TABLE.get("says", getattr(self, "code", None)))

    def output(self, step, ticket):
        return "the engine prints HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEF"

    def cancel(self, step, ticket):
        pass

def pytest_finetune_executor(name):
    return Here() if name == "here" else None
"""
EXAMPLE = Path(__file__).parents[2] / "example_project"
AWAY = "--finetune-executor=here"


@pytest.fixture
def away(project: Project) -> Project:
    """The project with an executor of its own, and no drift."""
    conftest = (project.path / "conftest.py").read_text(encoding="utf-8")
    experiment = (project.path / "finetune.yaml").read_text(encoding="utf-8")
    project.write({"conftest.py": conftest + EXECUTOR, "finetune.yaml": experiment + "drift: false\n"})
    return project


def test_the_record_of_jobs_is_that_of_a_local_run_but_for_its_times(away: Project) -> None:
    assert away.run("--finetune", "--finetune-store=one").ret == 0
    local, _ = away.record(), away.calls()
    assert away.run("--finetune", "--finetune-store=two", AWAY).ret == 0
    calls = away.calls()
    assert (calls.count("train"), calls.count("submit")) == (1, 3)
    assert timeless(away.record()) == timeless(local)
    assert list((away.path / "two" / "jobs").glob("*/request.json")) == []  # rows do not stay
    assert away.run("--finetune", "--finetune-store=two", AWAY).ret == 0
    assert away.calls() == []
    assert away.experiment()["training"]["reused"] is True


def test_submitit_trains_in_a_process_of_this_machine(away: Project) -> None:
    pytest.importorskip("submitit")
    away.write({"test_adapter.py": "def test_adapter(trained_adapter): pass\n"})
    for _ in range(2):
        assert away.run("--finetune", "--finetune-executor=submitit:local", "test_adapter.py").ret == 0
    assert away.calls() == ["train"]
    (log,) = away.path.glob(".finetune-cache/submitit/*/*_log.out")
    assert "done" in log.read_text().splitlines()


@pytest.mark.nightly
def test_the_record_of_submitit_on_this_machine_is_that_of_a_local_run_but_for_its_times(
    away: Project,
) -> None:
    pytest.importorskip("submitit")
    assert away.run("--finetune", "--finetune-store=one").ret == 0
    local = away.record()
    assert away.run("--finetune", "--finetune-store=two", "--finetune-executor=submitit:local").ret == 0
    assert timeless(away.record()) == timeless(local)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_record_and_the_adapter_of_the_example_as_jobs_are_those_of_a_local_run(tmp_path: Path) -> None:
    """The real model, with the base's own answers among the training rows: these are in the request, not in the key."""
    pytest.importorskip("submitit")
    for folder in ("data", "eval", "tests", "models"):
        shutil.copytree(EXAMPLE / folder, tmp_path / folder)
    text = (
        (EXAMPLE / "finetune.yaml")
        .read_text(encoding="utf-8")
        .replace("num_train_epochs: 4", "max_steps: 24")
    )
    text = text.replace("runtimes: [transformers]", "runtimes: [transformers, merged]")
    replay = "training:\n  replay: {prompts: neutral, share: 0.1}\n"
    text = text.replace("training:\n", replay).replace("max_new_tokens: 48", "max_new_tokens: 24")
    (tmp_path / "finetune.yaml").write_text(text + "drift: false\n", encoding="utf-8")
    made = []
    for executor in ("local", "submitit:local"):
        place = executor.replace(":", "-")
        options = [f"--finetune-executor={executor}", f"--finetune-store={place}", "--finetune-device=cpu"]
        words = [sys.executable, "-m", "pytest", "--finetune", "-p", "no:cacheprovider", *options]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # pytest writes sets in the order of their hashes
            text=True,
            stdout=subprocess.PIPE,
            timeout=1700,
            check=False,
        )
        (adapter,) = (tmp_path / place / "adapters").iterdir()
        record = json.loads((tmp_path / "finetune-record" / "record.json").read_text(encoding="utf-8"))
        assert record["experiments"][0]["training"]["replay"]["rows"] > 10, done.stdout
        made.append((done.returncode, adapter.name, adapter_digest(adapter), timeless(record)))
    assert made[0] == made[1]


def timeless(tree: Any) -> Any:
    """Return a record without what differs between two runs of the same: times, the command, the store's place."""
    times = {
        "seconds",
        "timings",
        "started",
        "finished",
        "duration",
        "command",
        "adapter_path",
        "created",
        "run",
        "id",
    }
    if isinstance(tree, dict):
        dropped = {name for name in tree if name in times or name.endswith(("_s", "_bytes", "seconds"))}
        return {name: timeless(value) for name, value in tree.items() if name not in dropped}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


def test_a_job_that_fails_is_an_error_of_its_stage_with_its_log_and_never_a_failed_row(away: Project) -> None:
    away.answers["training_error"] = "the disk is made of cheese"
    away.save()
    result = away.run("--finetune", AWAY)
    said = result.stdout.str()
    assert "ended: failed: RuntimeError: the disk is made of cheese" in said
    assert "to do: mend what the message names" in said
    facts = away.experiment()
    assert "the disk is made of cheese" in facts["gate"]["because"]
    assert facts["decision"]["verdict"] not in {"keep", "discard"}
    assert "tuned" not in facts["arms"]
    del away.answers["training_error"]
    away.save()
    assert away.run("--finetune", AWAY).ret == 0  # a new job is sent


def test_a_lost_job_shows_what_its_engine_printed_without_the_secrets(away: Project) -> None:
    away.answers |= {"lost": True, "says": 0}
    away.save()
    said = away.run("--finetune", AWAY).stdout.str()
    assert "ended with exit code 0 and left no result in the store" in said
    assert "the engine prints HF_TOKEN=" in said
    assert "hf_abc" not in said + json.dumps(away.record())


def test_an_exit_code_that_lies_is_not_believed(away: Project) -> None:
    away.answers["says"] = 77
    away.save()
    assert away.run("--finetune", AWAY).ret == 0


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(away: Project) -> None:
    result = away.run(
        "--finetune",
        "--finetune-executor=command: sky launch --gpus {gpus} -- {step}",
        "--finetune-executor-dry-run",
    )
    printed = [line for line in result.stdout.lines if "sky launch --gpus 0 -- pytest-finetune step " in line]
    result.stdout.fnmatch_lines(
        [
            "*NOT RUN: 1 job would be sent, its answers' jobs after it.*",
            "*leave out --finetune-executor-dry-run to send*",
        ]
    )
    assert (result.ret, len(printed)) == (0, 1)  # the training; the answers of its adapter have no key yet
    assert (
        "held-out rows can prove" not in result.stderr.str() + result.stdout.str()
    )  # nothing is trained on them
    assert away.calls() == []
    assert not (away.path / ".finetune" / "jobs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--finetune-executor=nowhere",), "'nowhere' is no executor: write local, 'command: TEMPLATE'"),
        (("--finetune-executor=command: sky launch",), "runs no step: write {step}"),
        (("--finetune-executor=command: nosuchprog {step}",), "'nosuchprog' is not on PATH: install it"),
        (("--finetune-executor=submitit:lsf",), "submitit:lsf is not known: write slurm, local, debug"),
        ((AWAY, "--finetune-retrain"), "--finetune-retrain trains on this machine"),
        ((AWAY, "--finetune-store-readonly"), "a job brings its result back through the store"),
        (("--finetune-executor-dry-run",), "name --finetune-executor"),
        (
            (AWAY, "--finetune-set", "executor.cards=[rtx-4091]"),
            "no card named 'rtx-4091' is known; did you mean 'rtx-4090'?",
        ),
    ],
)
def test_what_cannot_be_sent_is_a_usage_error_before_anything_runs(
    away: Project, words: tuple[str, ...], said: str
) -> None:
    result = away.run("--finetune", *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert away.calls() == []


Ran = Callable[..., tuple[int, str]]


@pytest.fixture
def asked(away: Project, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A training that was asked for and not run; returns what runs its step and gives its exit code and words."""

    def ask() -> Ran:
        away.answers["lost"] = True
        away.save()
        away.run("--finetune", AWAY, "-k", "adapter")
        del away.answers["lost"]
        (request,) = [
            file
            for file in (away.path / ".finetune" / "jobs").glob("*/request.json")
            if b'"train"' in file.read_bytes()
        ]

        def step(**table: object) -> tuple[int, str]:
            away.answers |= table
            away.save()
            capfd.readouterr()
            code = main(["step", request.parent.name, "--rootdir", str(away.path)])
            said = capfd.readouterr()
            return code, said.out + said.err

        return step

    away.write({"test_adapter.py": "def test_adapter(trained_adapter): pass\n"})
    return ask


BEHAVING = """
def pytest_finetune_train(request, _train=pytest_finetune_train):
    behaviour = TABLE.get("behaviour")
    if behaviour == "memory":
        raise MemoryError("out of memory")
    if behaviour == "stop":
        import os, signal
        os.kill(os.getpid(), signal.SIGTERM)
    return _train(request)
"""


def test_the_exit_code_of_a_step_tells_how_it_ended(away: Project, asked: Callable[[], Ran]) -> None:
    conftest = (away.path / "conftest.py").read_text(encoding="utf-8")
    away.write({"conftest.py": conftest + BEHAVING})
    step = asked()
    ended = {
        "failed": step(training_error="no"),
        "out of memory": step(training_error=None, behaviour="memory"),
        "interrupted": step(behaviour="stop"),
        "done": step(behaviour=None),
    }
    assert {word: code for word, (code, _) in ended.items()} == {word: OUTCOMES[word].code for word in ended}
    assert "RuntimeError: no" in ended["failed"][1]
    again = step()
    assert (again[0], "was done before: adapters/" in again[1]) == (0, True)
    assert away.calls().count("train") == 2  # the one that failed, and the one that was kept


def test_a_step_is_refused_where_the_projects_own_trainer_is_not(
    away: Project, asked: Callable[[], Ran]
) -> None:
    step = asked()
    (away.path / "conftest.py").unlink()
    code, said = step()
    assert code == OUTCOMES["refused"].code
    assert "trainer: asked for conftest:" in said
    assert "a trainer of your own stands in the project's conftest.py: run the step in that project" in said


def test_a_step_is_refused_where_the_base_is_another(away: Project, asked: Callable[[], Ran]) -> None:
    step = asked()
    (away.path / "base" / "config.json").write_text('{"model_type": "qwen2"}')
    code, said = step()
    assert (code, "bring the same base here: base" in said) == (OUTCOMES["refused"].code, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("step", "nonsense"), "is no key of a step"),
        (("step", "ab" * 32), "there is no step abababababab in this store"),
    ],
)
def test_a_step_that_nobody_asked_for_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main([*words, "--rootdir", str(tmp_path)]) == OUTCOMES["refused"].code
    assert said in capfd.readouterr().out


@pytest.mark.usefixtures("s3")
def test_a_command_runs_a_step_in_a_process_of_its_own_with_nothing_but_a_bucket_between(
    away: Project, tmp_path: Path
) -> None:
    """The engine starts a Python of its own in a folder of its own; it prints a secret and lies about its exit code."""
    import s3fs

    s3fs.S3FileSystem().mkdir("jobs-bucket")
    command = f"command: {sys.executable} engine.py {tmp_path / 'node'} {{step}}"
    away.write(
        {
            "engine.py": ENGINE,
            "test_adapter.py": "def test_adapter(trained_adapter): pass\n",
            "pytest.ini": f"[pytest]\nfinetune_executor = {command}\nfinetune_store = s3://jobs-bucket/store\n",
        }
    )
    for _ in range(2):  # the second finds what the first one's job has made
        assert away.run("--finetune", "test_adapter.py").ret == 0
    assert away.calls() == ["train"]
    (node,) = (tmp_path / "node").iterdir()
    assert (node / ".finetune-cache").is_dir()
    assert s3fs.S3FileSystem().ls("jobs-bucket/store/jobs") != []


@pytest.mark.nightly
@pytest.mark.usefixtures("s3")
def test_four_experiments_on_two_workers_train_four_times_and_ask_each_arm_once(
    away: Project, tmp_path: Path
) -> None:
    """Nothing but a bucket lies between two workers of pytest and the processes of the jobs."""
    import s3fs

    s3fs.S3FileSystem().mkdir("four-bucket")
    text = (away.path / "finetune.yaml").read_text(encoding="utf-8")
    files = {f"r{rank}.yaml": text.replace("{r: 4}", f"{{r: {rank}}}") for rank in (2, 3, 4, 5)}
    command = f"command: {sys.executable} engine.py {tmp_path / 'node'} {{step}}"
    conftest = (away.path / "conftest.py").read_text(encoding="utf-8")
    away.write(
        {
            **files,
            "conftest.py": conftest.replace('TABLE.get("delta", 1.0)', "float(request.experiment.lora.r)"),
            "engine.py": ENGINE,
            "pytest.ini": f"[pytest]\nfinetune_executor = {command}\nfinetune_store = s3://four-bucket/store\n"
            f"finetune_experiments = {' '.join(files)}\n",
        }
    )
    counted = []
    for _ in range(2):
        result = away.run("--finetune", "-n", "2", subprocess=True)
        assert result.ret == 0, result.stdout.str()
        assert [one["decision"]["verdict"] for one in away.record()["experiments"]] == ["keep"] * 4
        calls = away.calls()
        counted.append((calls.count("train"), len([call for call in calls if call.startswith("answer ")])))
    assert counted == [(4, 5), (0, 0)]  # all four have one base
    assert len(s3fs.S3FileSystem().glob("four-bucket/store/jobs/*/*-sent.json")) == 9


ENGINE = """\
import os, shutil, subprocess, sys, time
step = sys.argv[2:]
node = os.path.join(sys.argv[1], step[2][:8])  # a machine for each job
print("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCY", flush=True)
os.makedirs(node, exist_ok=True)
for name in ("conftest.py", "answers.json", "base"):
    copy = shutil.copytree if name == "base" else shutil.copy
    target = os.path.join(node, name)
    os.path.exists(target) or copy(name, target)
if not os.path.lexists(os.path.join(node, "calls.log")):
    os.symlink(os.path.abspath("calls.log"), os.path.join(node, "calls.log"))
assert step[0] == "pytest-finetune"
subprocess.run([sys.executable, "-m", "pytest_finetune", *step[1:]], cwd=node, check=True)
sys.exit(3)
"""
