"""The prepared run for a card: what a rehearsal writes is never taken for measured, and a failed step fails the run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import card_sessions, on_a_card
from benchmarks.on_a_card import TINY, Place, Step
from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.nvidia import Card


def place(folder: Path, *, rehearse: bool) -> Place:
    return Place(folder, folder / "work", parse_budget("8GiB"), rehearse)


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_rehearsal_writes_nothing_where_results_go(tmp_path: Path) -> None:
    names = ("cards.csv", "steps.jsonl", "speed.txt")
    rehearsed = {place(tmp_path, rehearse=True).file(name) for name in names}
    measured = {place(tmp_path, rehearse=False).file(name) for name in names}
    assert rehearsed.isdisjoint(measured)
    assert all(file.name.startswith("rehearsed-") for file in rehearsed)


def test_a_rehearsal_tries_every_kind_of_step(tmp_path: Path) -> None:
    kinds = [
        {step.name.partition(" ")[0] for step in on_a_card.steps(place(tmp_path, rehearse=rehearse))}
        for rehearse in (True, False)
    ]
    assert kinds[0] == kinds[1]


def test_a_failed_step_is_counted_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> Mapping[str, Any]:
        return on_a_card._held(False, {"exit": 1})

    some = [Step("first", 10, fails), Step("second", 10, lambda limit: {"limit": limit})]
    monkeypatch.setattr(on_a_card, "steps", lambda _: some)
    here = place(tmp_path, rehearse=False)
    assert on_a_card.run(here, 1, ()) == 1
    first, second = written(here.file("steps.jsonl"))
    assert '"exit": 1' in first["failed"]
    assert second["limit"] == 10
    assert on_a_card.run(here, 0.01, ["second"]) == 0
    assert "remained" in written(here.file("steps.jsonl"))[-1]["left out"]


def test_a_step_that_hangs_is_ended_and_what_the_machine_lacks_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(_: int) -> Mapping[str, Any]:
        time.sleep(60)
        return {}

    shard = next(
        step for step in on_a_card.steps(place(tmp_path, rehearse=False)) if step.name.startswith("shard")
    )
    gguf = next(
        step for step in on_a_card.steps(place(tmp_path, rehearse=False)) if step.name.startswith("gguf")
    )
    monkeypatch.setattr(on_a_card, "GRACE_S", 0)
    monkeypatch.setattr(nvidia, "visible", lambda: (Card("0", "GPU-1"),))
    monkeypatch.setenv("FINETUNE_LLAMA_CPP", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(on_a_card, "steps", lambda _: [Step("hangs", 1, hangs), shard, gguf])
    here = place(tmp_path, rehearse=False)
    assert on_a_card.run(here, 10, ()) == 1
    hung, shared, quantised = written(here.file("steps.jsonl"))
    assert hung["failed"] == "TimeoutError: it was ended after 1 s"
    assert hung["seconds"] < 10
    assert shared["left out"] == "`shard: true` shares a model out over two cards or more, and there is 1"
    assert "llama-server" in quantised["left out"]


def test_a_session_that_is_too_slow_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert int(process.stdout.readline()) > 0
        assert card_sessions.ended(process, 0.1) is None
        assert process.stdout.read() == b""  # its child, which holds the other end, is gone as well


@pytest.mark.parametrize(
    ("digests", "same"), [(("a", "a"), True), (("a", "b"), False), ((None, None), False)]
)
def test_adapters_that_should_be_the_same_bytes_and_are_not_fail_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digests: tuple[str | None, ...], same: bool
) -> None:
    trained = iter(digests)
    monkeypatch.setattr(on_a_card, "_project", lambda where, cell, name: tmp_path)
    monkeypatch.setattr(on_a_card, "run_session", lambda *given: 0)
    monkeypatch.setattr(on_a_card, "last_lines", lambda *given: [])
    monkeypatch.setattr(
        on_a_card, "record_of", lambda project: {"training": {"adapter_sha256": next(trained)}}
    )
    with nullcontext() if same else pytest.raises(RuntimeError, match='"same": false'):
        assert on_a_card._determinism(place(tmp_path, rehearse=False), TINY[0], 10)["same"]


def test_a_card_that_is_too_small_is_to_be_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    because = iter(["the training ran out of memory on cuda\n  ...", "the base model is not whole"])
    monkeypatch.setattr(on_a_card, "_project", lambda where, cell, name: tmp_path)
    monkeypatch.setattr(on_a_card, "run_session", lambda *given: 1)
    monkeypatch.setattr(on_a_card, "last_lines", lambda *given: [])
    monkeypatch.setattr(on_a_card, "record_of", lambda project: {"gate": {"because": next(because)}})
    here = place(tmp_path, rehearse=False)
    assert on_a_card._out_of_memory(here, on_a_card.TOO_LARGE, 10)["exit"] == 1
    with pytest.raises(RuntimeError, match="is not whole"):
        on_a_card._out_of_memory(here, on_a_card.TOO_LARGE, 10)
