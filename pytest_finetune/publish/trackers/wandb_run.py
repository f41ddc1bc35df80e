"""A run of Weights & Biases for each training, through its own client; WANDB_MODE=offline keeps it on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from pytest_finetune.errors import install
from pytest_finetune.publish import facts
from pytest_finetune.publish.trackers.tracker import TrackingError, final, live, title_of, verdict_of
from pytest_finetune.record.lenient import Json
from pytest_finetune.training.request import Progress
from pytest_finetune.wording import one_line

_T = TypeVar("_T")
PROJECT: Final = "pytest-finetune"
_LOCAL: Final = frozenset({"offline", "disabled", "dryrun"})


class WandbTracker:
    """Follows runs in the project that ``wandb:PROJECT`` or WANDB_PROJECT names."""

    name = "wandb"

    def __init__(self, where: str, folder: Path) -> None:
        self._project = where or os.environ.get("WANDB_PROJECT") or PROJECT
        self._runs: dict[str, Any] = {}

    def check(self) -> None:
        """Find that the client is installed, and that it would ask nobody for a key."""
        try:
            import wandb
        except ImportError as error:
            raise TrackingError(
                f"Weights & Biases' client is not here ({error}): {install('wandb')}"
            ) from None
        if os.environ.get("WANDB_MODE") not in _LOCAL and not wandb.api.api_key:
            raise TrackingError(
                "there is no key of Weights & Biases: `wandb login`, or set WANDB_MODE=offline"
            )

    def begin(self, experiment: str, key: str) -> str:
        """Start a run."""
        run = uuid.uuid4().hex[:8]
        self._open(run, title_of(experiment, key))
        return run

    def step(self, run: str, progress: Progress) -> None:
        """Log the numbers of a step."""
        numbers = {one.name: one.value for one in live(progress)}
        if numbers:
            self._ask("log a step", lambda: self._runs[run].log(numbers, step=progress.step))

    def trained(self, run: str) -> None:
        """Leave the run open, its verdict is to come; an xdist worker, which hears of none, ends it."""
        if "PYTEST_XDIST_WORKER" in os.environ:
            self._ask("end the run", lambda: self._runs.pop(run).finish())

    def judged(self, run: str | None, record: Json, experiment: Json) -> str:
        """Log settings, numbers and verdict, and end the run; one of another process is taken up again."""
        told_live = run is not None
        place = run or uuid.uuid4().hex[:8]
        title = title_of(str(experiment.get("name") or "experiment"), str(experiment.get("key") or ""))
        opened = self._runs.get(place) or self._open(place, title)
        numbers = final(experiment, told_live=told_live)
        curve = [one for one in numbers if one.step]

        def send() -> None:
            for one in sorted(curve, key=lambda one: one.step) if not told_live else ():
                opened.log({one.name: one.value}, step=one.step)
            opened.config.update(facts.params(experiment), allow_val_change=True)
            opened.summary.update({one.name: one.value for one in numbers if not one.step})
            opened.summary["verdict"] = verdict_of(experiment)
            opened.finish()

        self._ask("log the verdict", send)
        self._runs.pop(place, None)
        return str(opened.url or opened.dir)

    def _open(self, run: str, title: str) -> Any:
        import wandb

        quiet = wandb.Settings(silent=True, console="off")
        begin = wandb.init
        self._runs[run] = self._ask(
            "start a run",
            lambda: begin(project=self._project, name=title, id=run, resume="allow", settings=quiet),
        )
        return self._runs[run]

    @staticmethod
    def _ask(doing: str, ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except Exception as error:  # the client lets through whatever its transports raise
            raise TrackingError(f"cannot {doing}: {one_line(error, 300) or type(error).__name__}") from error
