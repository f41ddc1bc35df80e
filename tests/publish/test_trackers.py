"""Trackers hear of each step and of every verdict, through their own clients; trouble there is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.publish.mlflow_server import Server
from pytest_finetune.publish.parcel import PushError
from pytest_finetune.publish.trackers import TrackingError, trackers
from pytest_finetune.publish.trackers.mlflow_run import MlflowTracker
from pytest_finetune.publish.trackers.wandb_run import WandbTracker
from pytest_finetune.training.request import Progress

STEPS = [Progress(n, 3, 2.0 - n / 4, float(n), 0.0, 100.0, n / 3) for n in (1, 2, 3)]
LOG = [{"step": n, "epoch": n / 3, "loss": 2.0 - n / 4} for n in (1, 2, 3)]
EXPERIMENT = {
    "name": "finetune",
    "key": "ab" * 32,
    "config": {"lora": {"r": 8}},
    "training": {"seconds": 3.0, "log": LOG},
    "decision": {"verdict": "discard", "undecided": False},
}


def test_names_are_read_once_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    found = trackers(["mlflow:http://there:5000", "wandb", "wandb"], tmp_path)
    assert [one.name for one in found] == ["mlflow", "wandb"]
    with pytest.raises(TrackingError, match="no such tracker: write tensorboard, mlflow, wandb"):
        trackers(["tensorbord"], tmp_path)


@pytest.mark.parametrize("word", ["tensorboard", "mlflow:http://there", "wandb"])
def test_an_absent_client_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setitem(sys.modules, word.partition(":")[0], None)
    (found,) = trackers([word], tmp_path)
    with pytest.raises(TrackingError, match=rf"pip install 'pytest-finetune\[{found.name}\]'"):
        found.check()


def test_tensorboard_reads_the_curve_and_the_verdict(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers(["tensorboard"], tmp_path)
    tracker.check()
    run = tracker.begin("finetune", EXPERIMENT["key"])  # type: ignore[arg-type]
    for progress in STEPS:
        tracker.step(run, progress)
    tracker.trained(run)
    for told in (run, None):  # the second is of a run that reused the adapter
        folder = Path(tracker.judged(told, {}, EXPERIMENT))
    assert folder == tmp_path / "tensorboard" / "finetune-abababababab"
    read = EventAccumulator(str(folder))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("training/loss")] == [
        (1, 1.75),
        (2, 1.5),
        (3, 1.25),
    ]
    assert "verdict" in read.Tags()["tensors"]


class StandInServer:
    shown = "http://there"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def new_run(self, *given: Any) -> Any:
        self.told.append(("new_run", *given[:2]))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log(self, run: Any, params: Any, numbers: Any, _time: int) -> None:
        self.told.append(("log", run.info.run_id, params, numbers))

    def tag_run(self, run: Any, tags: Any) -> None:
        self.told.append(("tag", run.info.run_id, tags["pytest_finetune.verdict"]))

    def end(self, run: Any, status: str) -> None:
        self.told.append(("end", run.info.run_id, status))


def test_mlflow_hears_steps_settings_and_a_discarded_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = StandInServer()
    monkeypatch.setattr(Server, "opened", lambda uri: server)
    tracker = MlflowTracker("http://there", tmp_path)
    run = tracker.begin("finetune", "ab" * 32)
    for progress in STEPS:
        tracker.step(run, progress)
    assert tracker.judged(run, {}, EXPERIMENT) == "run r1 at http://there"
    logged = [one[3] for one in server.told if one[0] == "log"]
    # The second step came too soon after the first; the last is always told, and no loss twice.
    assert [[number for number in one if number[0] == "training/loss"] for one in logged] == [
        [("training/loss", 1.75, 1)], [("training/loss", 1.25, 3)], [],
    ]  # fmt: skip
    assert ("tag", "r1", "discard") in server.told
    assert server.told[-1] == ("end", "r1", "FINISHED")


def test_a_server_that_went_away_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(uri: str | None) -> Server:
        raise PushError("no tracking server answers at http://there")

    monkeypatch.setattr(Server, "opened", gone)
    with pytest.raises(TrackingError, match="no tracking server answers"):
        MlflowTracker("", tmp_path).judged(None, {}, EXPERIMENT)


def stand_in_wandb(monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[Any, list[dict[str, Any]]]:
    runs: list[dict[str, Any]] = []

    def init(**about: Any) -> Any:
        logged: list[Any] = []
        summary: dict[str, Any] = {}
        runs.append({**about, "logged": logged, "summary": summary})
        return SimpleNamespace(
            log=lambda numbers, step: logged.append((step, numbers)), summary=summary, url="http://w/r",
            config=SimpleNamespace(update=lambda *_, **__: None), finish=lambda: logged.append("finished"),
        )  # fmt: skip

    client = ModuleType("wandb")
    vars(client).update({"init": init, "Settings": SimpleNamespace, **given})
    monkeypatch.setitem(sys.modules, "wandb", client)
    return client, runs


def test_wandb_hears_a_training_and_its_verdict_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = stand_in_wandb(monkeypatch)
    tracker = WandbTracker("", tmp_path)
    run = tracker.begin("finetune", "ab" * 32)
    tracker.step(run, STEPS[0])
    assert tracker.judged(run, {}, EXPERIMENT) == "http://w/r"
    (told,) = runs
    assert (told["id"], told["project"], told["name"]) == (run, "pytest-finetune", "finetune abababababab")
    assert told["logged"] == [(1, {"training/loss": 1.75, "training/tokens_per_s": 100.0}), "finished"]
    assert told["summary"] == {"training/seconds": 3.0, "verdict": "discard"}
    tracker.judged(None, {}, EXPERIMENT)  # a reused adapter: the curve of its record
    assert [step for step, _ in runs[1]["logged"][:-1]] == [1, 2, 3]


def test_wandb_never_waits_for_somebody_to_type_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_wandb(monkeypatch, api=SimpleNamespace(api_key=None))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(TrackingError, match="WANDB_MODE=offline"):
        WandbTracker("", tmp_path).check()
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandbTracker("", tmp_path).check()
