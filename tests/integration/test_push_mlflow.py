"""A verified bundle is logged to a real tracking server and registered there; the alias moves only on keep."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_finetune.bundle.format import MANIFEST
from pytest_finetune.bundle.reading import open_bundle
from pytest_finetune.cli import main
from pytest_finetune.publish import MlflowTarget, Parcel, tracking

from .bundles import doctor, new_project, promote, seal

HAS_SERVER = all(importlib.util.find_spec(name) for name in ("mlflow", "alembic", "uvicorn"))
needs_server = pytest.mark.skipif(not HAS_SERVER, reason="MLflow with its server is not installed")
needs_client = pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="MLflow is not installed")
# What MLflow's own dependencies deprecate is not about us.
pytestmark = pytest.mark.filterwarnings("ignore")
STARTS_WITHIN_S = 120


class Ran(NamedTuple):
    """What a push did."""

    code: int
    out: str
    err: str


Push = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _no_server_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "GITHUB_SHA",
        "CI_COMMIT_SHA",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a run wrote."""
    return promote(new_project(tmp_path_factory.mktemp("project")))


@pytest.fixture
def bundle(promoted: Path, tmp_path: Path) -> Path:
    """A copy of a task of its own, so that tests on one server do not meet."""
    copy = Path(shutil.copytree(promoted, tmp_path / "bundle"))
    rename(copy, f"priority of {tmp_path.name}")
    return copy


def rename(bundle: Path, task: str) -> None:
    """Give the bundle's task another name, everywhere."""
    doctor(bundle, lambda record: record["experiments"][0].update(task=task))
    seal(bundle, task=task)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` on a free port of loopback."""
    folder = tmp_path_factory.mktemp("mlflow")
    with serving(folder) as (url, _):
        yield url


class serving:  # noqa: N801
    """Start a tracking server and end it, with all of its workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> tuple[str, subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.log = (self.folder / "server.log").open("wb")
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        self.process = subprocess.Popen(
            words, cwd=self.folder, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        self._wait(url)
        return url, self.process

    def _wait(self, url: str) -> None:
        ends = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < ends and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        self.__exit__()
        raise AssertionError((self.folder / "server.log").read_text(errors="replace")[-4000:])

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # it waits long for its workers, and keeps nothing
            self.process.wait(20)
        self.log.close()


@pytest.fixture
def push(capsys: pytest.CaptureFixture[str]) -> Push:
    """`pytest-finetune push`."""

    def run(bundle: Path, to: str, *words: object) -> Ran:
        capsys.readouterr()
        code = main(["push", str(bundle), "--to", to, *map(str, words)])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


def client(server: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server, registry_uri=server)


def record_of(bundle: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundle / "record.json").read_bytes())
    return record


def task_of(bundle: Path) -> str:
    return str(record_of(bundle)["experiments"][0]["task"])


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def versions(server: str, task: str) -> list[Any]:
    return list(client(server).search_model_versions(f"name = '{task}'"))


@needs_server
def test_a_run_holds_settings_numbers_digests_and_the_bundle(
    bundle: Path, server: str, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = {"predicted_peak_bytes": 2**30, "breakdown": {}, "budget_bytes": None, "fits": None}
    doctor(bundle, lambda record: record["experiments"][0].update(memory=memory))
    monkeypatch.setenv("GITHUB_SHA", "0123abc")
    ran = push(bundle, f"mlflow:{server}")
    assert ran.code == 0, ran
    assert ran.out.startswith(f"pushed: {bundle} to mlflow:{server}, model {task_of(bundle)}\n")
    experiment = record_of(bundle)["experiments"][0]
    found = client(server).get_experiment_by_name(task_of(bundle))
    (run,) = client(server).search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{experiment['name']} {experiment['training']['adapter_sha256'][:12]}"
    assert run.data.params["lora.r"] == "4"
    assert run.data.params["peft_method"] == "lora"
    numbers = run.data.metrics
    assert numbers["rate/tuned/label"] == experiment["arms"]["tuned"]["rules"]["label"]["rate"] == 0.9
    assert numbers["rate/baseline/label"] == 0.0
    pair = next(
        one for one in experiment["comparisons"] if (one["rule"], one["against"]) == ("label", "baseline")
    )
    assert numbers["gain/label/baseline"] == pair["gain"]
    assert [numbers["gain/label/baseline/lower"], numbers["gain/label/baseline/upper"]] == pair["interval"]
    assert numbers["p_value/label/baseline"] == pair["p_value"] < 0.001
    assert numbers["memory/predicted_peak_bytes"] == 2**30
    assert "memory/budget_bytes" not in numbers
    assert numbers["training/seconds"] == experiment["training"]["seconds"]
    curve = client(server).get_metric_history(run.info.run_id, "training/loss")
    assert [(one.step, one.value) for one in curve] == [(1, 2.0), (2, 0.5)]
    tags = run.data.tags
    assert tags["pytest_finetune.key"] == experiment["key"]
    assert tags["pytest_finetune.adapter_sha256"] == experiment["training"]["adapter_sha256"]
    assert tags["pytest_finetune.manifest"] == json.loads((bundle / MANIFEST).read_bytes())["digest"]
    assert tags["pytest_finetune.verdict"] == "keep"
    assert tags["mlflow.source.git.commit"] == "0123abc"
    assert tags["mlflow.note.content"] == (bundle / "decision.md").read_text(encoding="utf-8")


@needs_server
def test_the_champion_is_the_bundle_byte_by_byte_and_verifies(
    bundle: Path,
    server: str,
    push: Push,
    tmp_path: Path,
    verify: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.artifacts import download_artifacts

    ran = push(bundle, f"mlflow:{server}")
    assert ran.code == 0, ran
    assert "alias      champion is version 1\n" in ran.out
    (tmp_path / "away").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    away = download_artifacts(f"models:/{task_of(bundle)}@champion", dst_path=str(tmp_path / "away"))
    assert content(Path(away)) == content(bundle)
    assert not [name for name in content(Path(away)) if name.endswith((".pkl", ".pickle", ".py", ".bin"))]
    code, said = verify(away)
    assert code == 0, said


@needs_server
def test_the_same_bundle_again_makes_no_second_version_and_moves_no_alias(
    bundle: Path, server: str, push: Push
) -> None:
    task = task_of(bundle)
    assert push(bundle, f"mlflow:{server}").code == 0
    client(server).set_registered_model_alias(task, "other", "1")
    ran = push(bundle, f"mlflow:{server}")
    assert ran.code == 0
    assert ran.out.startswith(f"already there: mlflow:{server}, model {task} holds this bundle (")
    assert "champion stays at version 1; this is version 1" in ran.out
    (version,) = versions(server, task)
    assert version.tags["pytest_finetune.complete"] == "true"
    assert client(server).get_registered_model(task).aliases == {"champion": "1", "other": "1"}
    found = client(server).get_experiment_by_name(task)
    assert len(client(server).search_runs([found.experiment_id])) == 1


@needs_server
def test_another_bundle_is_the_next_version_and_an_older_one_takes_nothing_back(
    bundle: Path, server: str, push: Push, tmp_path: Path
) -> None:
    newer = Path(shutil.copytree(bundle, tmp_path / "newer"))
    doctor(newer, lambda record: record.update(command="pytest --finetune --finetune-promote -q"))
    assert push(bundle, f"mlflow:{server}").code == 0
    ran = push(newer, f"mlflow:{server}")
    assert "champion is version 2 (it was version 1)" in ran.out
    assert "champion stays at version 2; this is version 1" in push(bundle, f"mlflow:{server}").out
    assert client(server).get_registered_model(task_of(bundle)).aliases == {"champion": "2"}
    assert len(versions(server, task_of(bundle))) == 2


@needs_server
def test_a_push_that_was_killed_before_its_alias_is_finished_by_the_next(
    bundle: Path, server: str, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        assert push(bundle, f"mlflow:{server}").code == 130
    assert client(server).get_registered_model(task_of(bundle)).aliases == {}
    ran = push(bundle, f"mlflow:{server}")
    assert "champion is version 1" in ran.out
    assert len(versions(server, task_of(bundle))) == 1


@needs_server
def test_the_alias_moves_only_on_keep(
    bundle: Path, server: str, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(bundle, f"mlflow:{server}").code == 0
    doctor(bundle, lambda record: record["experiments"][0]["decision"].update(verdict="iterate", keep=False))
    ran = push(bundle, f"mlflow:{server}")
    assert (ran.code, "the decision is iterate, not keep" in ran.out) == (1, True)
    # the door behind that one: what is handed over without the command
    told = dict(tracking.push(Parcel.of(open_bundle(bundle)), MlflowTarget(server)).told)
    assert told["alias"] == "champion stays at version 1: the record says iterate, not keep"
    assert client(server).get_registered_model(task_of(bundle)).aliases == {"champion": "1"}


@needs_server
def test_a_server_that_loses_a_file_registers_nothing(
    bundle: Path, server: str, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    send = MlflowClient.log_artifact

    def lossy(self: MlflowClient, run_id: str, path: str, artifact_path: str | None = None) -> None:
        if not path.endswith("decision.md"):
            send(self, run_id, path, artifact_path=artifact_path)

    monkeypatch.setattr(MlflowClient, "log_artifact", lossy)
    ran = push(bundle, f"mlflow:{server}")
    assert ran.code == 1
    assert "1 file missing or of another size, decision.md the first; the run is marked as failed" in ran.out
    found = client(server).get_experiment_by_name(task_of(bundle))
    (run,) = client(server).search_runs([found.experiment_id])
    assert run.info.status == "FAILED"
    assert versions(server, task_of(bundle)) == []


@needs_server
def test_the_server_may_stand_in_the_environment_and_hostile_texts_are_data(
    bundle: Path, server: str, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename(bundle, "o'clock: 100% <b>/\x1b[31m\n" + bundle.parent.name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    for expected in ("pushed: ", "already there: "):
        ran = push(bundle, "mlflow:")
        assert ran.code == 0, ran
        assert ran.out.startswith(expected)
        assert "\x1b" not in ran.out + ran.err
    assert len(versions(server, f"o-clock- 100- <b>--x1b[31m {bundle.parent.name}")) == 1


@needs_server
def test_a_server_that_was_stopped_is_one_clear_line(promoted: Path, tmp_path: Path, push: Push) -> None:
    with serving(tmp_path) as (url, _):
        assert push(promoted, f"mlflow:{url}").code == 0
    ran = push(promoted, f"mlflow:{url}")
    assert ran.code == 1
    assert ran.out.startswith(f"NOT PUSHED: {promoted}: no tracking server answers at {url} (")
    assert ran.out.endswith("): is it running, and is the address right?\n")
    assert len(ran.out.splitlines()) == 1


@needs_client
def test_a_server_that_asks_for_credentials_names_the_variables_and_shows_none(
    promoted: Path, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Closed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401, f"not {self.headers.get('Authorization')}")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Closed)
    thread = Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        host = f"127.0.0.1:{web.server_address[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@{host}")
        ran = push(promoted, "mlflow:")
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
    assert ran.code == 1
    assert (
        f"http://{host} does not let this user look for the model (401): MLFLOW_TRACKING_USERNAME" in ran.out
    )
    assert "s3cret" not in ran.out + ran.err


def test_a_server_that_is_named_nowhere_is_told(promoted: Path, push: Push) -> None:
    ran = push(promoted, "mlflow:")
    assert ran.code == 1
    assert (
        "mlflow: alone names no server: write mlflow:http://host:5000, or set MLFLOW_TRACKING_URI" in ran.out
    )


def test_without_mlflow_the_extra_is_named(
    promoted: Path, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    ran = push(promoted, "mlflow:http://127.0.0.1:9")
    assert ran.code == 1
    assert "pip install 'pytest-finetune[mlflow]'" in ran.out


def test_a_dry_run_names_the_server_and_asks_nobody(promoted: Path, push: Push) -> None:
    ran = push(promoted, "mlflow:http://127.0.0.1:9", "--dry-run")
    assert ran.code == 0
    assert ran.out.startswith(f"would push: {promoted} to mlflow:http://127.0.0.1:9\n")
    assert "nothing was sent and nobody was asked" in ran.out
