"""Tests of a pytest plugin run pytest inside pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from _pytest import pytester

# What tests replace in our modules has to be there before a session loads it.
from pytest_finetune.suite import hooks  # noqa: F401

pytest_plugins = ["pytester"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what trains and traces: workers take whole files, and a long one that comes last is waited for."""
    long = {"training", "memory", "example"}
    items.sort(key=lambda item: long.isdisjoint(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def _libraries_stay_loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let an in-process pytest forget the modules of its own project alone.

    Pytester forgets all that a session has imported. A dozen libraries would be imported again in each of some hundred
    sessions, and torch refuses to be loaded twice.
    """
    projects = f"{tmp_path_factory.getbasetemp()}{os.sep}"

    class Snapshot(pytester.SysModulesSnapshot):
        def __init__(self, preserve: Callable[[str], bool] | None = None) -> None:
            super().__init__(lambda name: not is_of_a_project(name))

    def is_of_a_project(name: str) -> bool:
        found = vars(sys.modules[name])
        return any(
            str(place).startswith(projects) for place in (found.get("__file__"), *found.get("__path__", ()))
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytester, "SysModulesSnapshot", Snapshot)
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start moto's S3 server on a free port; its address is in the environment meanwhile."""
    import s3fs
    from moto.server import ThreadedMotoServer

    s3fs.S3FileSystem.clear_instance_cache()  # else one is used again that knows the server of another module
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()
