"""pytest-xdist: all tests of one experiment go to one worker; other tests keep the granularity the user asked for.

``xdist_group`` with ``--dist loadgroup`` does not do it on current versions (pytest-dev/pytest-xdist#1386), so the
workers write down which experiment each node id belongs to and the controller's scheduler reads it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.suite.collection import place_of

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from pytest_finetune.suite.wholeness import Told

_INPUT: Final = "pytest_finetune_map"
_WARNINGS: Final = "pytest_finetune_store_warnings"
_COLLECTED: Final = "pytest_finetune_collected"


def is_worker(config: pytest.Config) -> bool:
    """Tell whether this process is an xdist worker."""
    return hasattr(config, "workerinput")


def is_distributed(config: pytest.Config) -> bool:
    """Tell whether this process is the controller of an xdist run."""
    return (
        not is_worker(config)
        and getattr(config.option, "dist", "no") != "no"
        and bool(getattr(config.option, "tx", None))
    )


def refuse_unsupported(config: pytest.Config) -> None:
    """Raise pytest.UsageError for ways of distributing that cannot keep an experiment on one machine."""
    if not is_distributed(config):
        return
    if config.option.dist == "each":
        raise pytest.UsageError("--dist=each would train every adapter once for each worker: use --dist=load")
    remote = [spec for spec in config.option.tx if "popen" not in str(spec)]
    if remote:
        raise pytest.UsageError(
            f"--tx {remote[0]}: experiments run on this machine only: use -n N, or --tx popen"
        )


def write_map(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """On a worker whose controller asks for it: write which experiment each of our items belongs to."""
    given = getattr(config, "workerinput", {}).get(_INPUT)
    if given is None:
        return
    folder = Path(given)
    worker = config.workerinput["workerid"]  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for item in items:
        place = place_of(item)
        if place is not None:
            found[item.nodeid] = place.experiment.name if place.experiment else "?"
    partial = folder / f"{worker}.partial"
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(folder / f"{worker}.json")


def tell(config: pytest.Config, warnings: Sequence[str], collected: Told) -> None:
    """On a worker: hand the store's warnings and what was collected over with the worker's last message."""
    output = config.workeroutput  # type: ignore[attr-defined]
    output[_WARNINGS], output[_COLLECTED] = list(warnings), dict(collected)


def told(node: WorkerController) -> tuple[Sequence[str], Told]:
    """On the controller: return the store's warnings of a worker and what it collected; nothing of one that crashed."""
    output = getattr(node, "workeroutput", {})
    return output.get(_WARNINGS, ()), output.get(_COLLECTED, {"collected": [], "files": []})


class Grouping:
    """Registered on the controller of an xdist run only."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pytest-finetune-"))
        self._map: Mapping[str, str] | None = None

    def pytest_configure_node(self, node: WorkerController) -> None:
        """Tell each worker where to write its map."""
        node.workerinput[_INPUT] = str(self.folder)

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Schedule whole experiments; anything else as ``--dist`` says."""
        if config.option.dist == "each":
            return None
        from xdist.scheduler import LoadScopeScheduling

        grouping = self

        class ExperimentScheduling(LoadScopeScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                return grouping.scope(nodeid, config.option.dist)

        return ExperimentScheduling(config, log)

    def scope(self, nodeid: str, dist: str) -> str:
        """Return the unit of work to which a node id belongs."""
        if self._map is None:
            maps = sorted(self.folder.glob("*.json"))
            self._map = json.loads(maps[0].read_text(encoding="utf-8")) if maps else {}
        experiment = self._map.get(nodeid)
        if experiment is not None:
            return f"experiment {experiment}"
        if dist == "loadscope":
            return nodeid.rsplit("::", 1)[0]
        if dist == "loadfile":
            return nodeid.split("::", 1)[0]
        if dist == "loadgroup" and nodeid.rfind("@") > nodeid.rfind("]"):
            return nodeid.split("@")[-1]
        return nodeid

    def pytest_unconfigure(self) -> None:
        """Remove the maps."""
        shutil.rmtree(self.folder, ignore_errors=True)
