"""A run of MLflow for each training, through MLflow's own client."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pytest_finetune.publish import facts
from pytest_finetune.publish.mlflow_server import Server
from pytest_finetune.publish.parcel import PushError
from pytest_finetune.publish.trackers.tracker import TrackingError, final, live, title_of, verdict_of
from pytest_finetune.record.lenient import Json
from pytest_finetune.training.request import Progress

EVERY_S: Final = 5.0
"""A step is told at most so often: each is a request."""


class MlflowTracker:
    """Follows runs on the server that ``mlflow:URI`` or MLFLOW_TRACKING_URI names."""

    name = "mlflow"

    def __init__(self, where: str, folder: Path) -> None:
        self._uri = where or None
        self._server: Server | None = None
        self._told_s = float("-inf")

    def check(self) -> None:
        """Find that the client is installed and the server answers."""
        self._reached()

    def begin(self, experiment: str, key: str) -> str:
        """Start a run in the experiment of that name."""
        run = self._ask(lambda server: self._new(server, experiment, key))
        return str(run.info.run_id)

    def step(self, run: str, progress: Progress) -> None:
        """Log the numbers of a step; of steps that follow each other quickly some are left out."""
        now = time.monotonic()
        if now - self._told_s < EVERY_S and progress.step < progress.steps:
            return
        self._told_s = now
        numbers = [(one.name, one.value, one.step) for one in live(progress)]
        self._ask(lambda server: server.log(_named(run), {}, numbers, round(time.time() * 1000)))

    def trained(self, run: str) -> None:
        """Leave the run open: its verdict is to come."""

    def judged(self, run: str | None, record: Json, experiment: Json) -> str:
        """Log settings, numbers and verdict, and end the run; a reused adapter begins one first."""
        name, key = str(experiment.get("name") or "experiment"), str(experiment.get("key") or "")
        told_live = run is not None
        run = run or self.begin(name, key)
        numbers = [(one.name, one.value, one.step) for one in final(experiment, told_live=told_live)]
        tags = {f"{facts.PREFIX}verdict": verdict_of(experiment), f"{facts.PREFIX}key": key}

        def send(server: Server) -> None:
            server.log(_named(run), facts.params(experiment), numbers, round(time.time() * 1000))
            server.tag_run(_named(run), tags)
            server.end(_named(run), "FINISHED")

        self._ask(send)
        return f"run {run} at {self._reached().shown}"

    @staticmethod
    def _new(server: Server, experiment: str, key: str) -> Any:
        about = {"mlflow.source.name": "pytest --finetune", f"{facts.PREFIX}key": key}
        return server.new_run(experiment, title_of(experiment, key), about)

    def _ask(self, ask: Any) -> Any:
        try:
            return ask(self._reached())
        except PushError as error:
            raise TrackingError(str(error)) from None

    def _reached(self) -> Server:
        if self._server is None:
            try:
                self._server = Server.opened(self._uri)
            except PushError as error:
                raise TrackingError(str(error)) from None
        return self._server


def _named(run: str) -> Any:
    """Return a run as the server's methods take it: known by its id alone."""
    return SimpleNamespace(info=SimpleNamespace(run_id=run))
