"""Event files of TensorBoard in the record's folder, a folder for each training."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pytest_finetune.errors import install
from pytest_finetune.publish.facts import Metric
from pytest_finetune.publish.trackers.tracker import TrackingError, final, live, verdict_of
from pytest_finetune.record.lenient import Json
from pytest_finetune.training.request import Progress

FOLDER: Final = "tensorboard"


class TensorboardTracker:
    """Writes ``tensorboard/<experiment>-<key>/`` beside the record; it is never sent anywhere."""

    name = "tensorboard"

    def __init__(self, where: str, folder: Path) -> None:
        self._folder = Path(where) if where else folder / FOLDER
        self._writers: dict[str, Any] = {}

    def check(self) -> None:
        """Find that TensorBoard is installed."""
        try:
            import tensorboard.summary.writer.event_file_writer  # noqa: F401
        except ImportError as error:
            raise TrackingError(f"TensorBoard is not here ({error}): {install('tensorboard')}") from None

    def begin(self, experiment: str, key: str) -> str:
        """Open an event file."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{experiment}-{key[:12]}").strip(".-")

    def step(self, run: str, progress: Progress) -> None:
        """Write the numbers of a step, so that a TensorBoard beside it shows them at once."""
        self._write(run, live(progress))

    def trained(self, run: str) -> None:
        """Close the event file."""
        writer = self._writers.pop(run, None)
        if writer is not None:
            writer.close()

    def judged(self, run: str | None, record: Json, experiment: Json) -> str:
        """Write the record's numbers, and the verdict as a text."""
        place = run or self.begin(
            str(experiment.get("name") or "experiment"), str(experiment.get("key") or "")
        )
        known = (
            run is not None or (self._folder / place).is_dir()
        )  # a reused adapter's curve stands there already
        self._write(place, final(experiment, told_live=known))
        self._text(place, "verdict", verdict_of(experiment))
        self.trained(place)
        return str(self._folder / place)

    def _write(self, run: str, metrics: Iterable[Metric]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self._writer(run)
        for name, value, step in metrics:
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        writer.flush()

    def _text(self, run: str, name: str, text: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        summary = Summary(value=[Summary.Value(tag=name, metadata=about, tensor=tensor)])
        self._writer(run).add_event(Event(wall_time=time.time(), step=0, summary=summary))

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            folder = self._folder / run
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._writers[run] = EventFileWriter(str(folder))
            except OSError as error:
                raise TrackingError(f"cannot write to {folder} ({error.strerror or error})") from None
        return self._writers[run]
