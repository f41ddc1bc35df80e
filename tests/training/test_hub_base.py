"""A base that is named by its hub id and lies in the cache: trained on and asked without one word to the hub."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Generation, Training
from pytest_finetune.huggingface import pytest_finetune_runtime
from pytest_finetune.store import Store
from pytest_finetune.training.base import source_of
from pytest_finetune.training.request import TrainingRequest
from pytest_finetune.training.sft import train

from .conftest import make_experiment, question

COMMIT = "c" * 40
ONE_STEP = Training(max_seq_length=128, per_device_train_batch_size=2, max_steps=1)


@pytest.fixture
def snapshot(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base as org/tiny in a cache of the hub, its `main` at one commit."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    repository = tmp_path / "hub" / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for file in tiny_base.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def test_a_cached_base_is_trained_on_and_asked_where_no_socket_opens(
    snapshot: Path, tmp_path: Path, ask: Callable[..., TrainingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise ConnectionRefusedError(address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: refuse(None, address))  # type: ignore[arg-type]
    request = replace(ask(training=ONE_STEP), base="org/tiny")
    assert train(request).steps == 1
    runtime: Any = pytest_finetune_runtime(
        "transformers", request.experiment, "org/tiny", "cpu", Store(tmp_path / "store")
    )
    runtime._generation = Generation(max_new_tokens=2)
    assert len(runtime.generate([question(1, 2)])) == 1
    assert asked == []


def test_only_a_whole_snapshot_takes_the_place_of_the_hub(snapshot: Path) -> None:
    experiment = make_experiment()
    source = source_of(experiment, "org/tiny")
    assert (source.name, source.revision, source.local) == (str(snapshot), None, True)
    trusting = replace(experiment, trust_remote_code=True, revision="v1")
    assert source_of(trusting, "org/tiny").name == "org/tiny"
    assert source_of(replace(experiment, revision="v2"), "org/tiny").revision == "v2"
    (snapshot / "model.safetensors").unlink()
    assert (source_of(experiment, "org/tiny").name, source_of(experiment, "org/tiny").local) == (
        "org/tiny",
        False,
    )
