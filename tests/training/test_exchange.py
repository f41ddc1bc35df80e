"""What travels between the session and its training processes: JSON of ours, refused when it is cut or foreign."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import Lora
from pytest_finetune.training.processes.exchange import SCHEMA, Exchange
from pytest_finetune.training.request import Progress, TrainingRequest, TrainingResult

Ask = Callable[..., TrainingRequest]


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    (tmp_path / "exchange").mkdir()
    return Exchange(tmp_path / "exchange")


def unheard(_: Progress) -> None:
    """Listen to nothing."""


def test_the_request_arrives_as_it_was_sent_with_the_device_of_the_rank(ask: Ask, exchange: Exchange) -> None:
    chat = Pair([{"role": "user", "content": "1 + 1?"}], [{"role": "assistant", "content": "2"}])
    sent = ask(
        pairs=(Pair("a\u2028 ->", " b"), chat),
        lora=Lora(target_modules=("q_proj",)),
        max_truncated=3,
        held_out=(chat,),
        dev=(chat, chat),
    )
    exchange.ask(sent, ["cuda:0", "cuda:1"])
    arrived = exchange.request(1, unheard)
    assert arrived.device == "cuda:1"
    for name in ("pairs", "rows", "base", "folder", "checkpoints", "max_truncated", "held_out", "dev"):
        assert getattr(arrived, name) == getattr(sent, name), name
    assert arrived.experiment.training == sent.experiment.training
    assert arrived.experiment.lora == sent.experiment.lora
    assert arrived.experiment.resolved["training"] == sent.experiment.resolved["training"]
    assert arrived.progress is unheard


def test_the_rows_leave_the_disk_once_they_are_read(ask: Ask, exchange: Exchange) -> None:
    exchange.ask(ask(), ["cpu"])
    exchange.forget_request()
    assert list(exchange.folder.iterdir()) == []


def test_progress_is_heard_line_by_line_and_half_a_line_not_yet(exchange: Exchange) -> None:
    assert list(exchange.told(0)) == []
    steps = [Progress(n, 3, None if n == 1 else 0.5 * n, 1.0, 2.0, None, n / 3, 2**40) for n in (1, 2)]
    for step in steps:
        exchange.tell(step)
    told = exchange.folder / "progress.jsonl"
    whole = told.read_bytes()
    told.write_bytes(whole + b'{"step": 3, "st')
    heard = list(exchange.told(0))
    assert [progress for progress, _ in heard] == steps
    assert heard[-1][1] == len(whole)
    told.write_bytes(
        whole + json.dumps(dataclasses.asdict(Progress(3, 3, 1.5, 1.0, 0.0, 9.5, 1.0))).encode() + b"\n"
    )
    assert [progress.step for progress, _ in exchange.told(heard[-1][1])] == [3]


def test_the_result_arrives_as_it_was_sent(exchange: Exchange, tmp_path: Path) -> None:
    assert exchange.result(tmp_path) is None
    sent = TrainingResult(
        folder=tmp_path,
        steps=2,
        seconds=1.5,
        final_loss=0.25,
        log=({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}),
        peak_bytes=2**40,
        trainable=7,
        tokens={"p50": 3},
        notes=("2 processes",),
        held_out_loss=({"step": 2, "epoch": 1.0, "loss": 0.3},),
    )
    exchange.finish(sent)
    assert exchange.result(tmp_path) == sent


def test_the_first_failure_comes_first(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    for at_s, rank in ((20.0, 0), (10.0, 1)):
        monkeypatch.setattr("time.time", lambda at_s=at_s: at_s)
        exchange.fail(rank, "training", f"rank {rank}")
    assert [(found.rank, found.text) for found in exchange.failures()] == [(1, "rank 1"), (0, "rank 0")]


def test_the_wish_to_stop_is_seen(exchange: Exchange) -> None:
    assert not exchange.asked_to_stop()
    exchange.ask_to_stop()
    assert exchange.asked_to_stop()


RESULT: dict[str, Any] = {
    "schema": SCHEMA,
    **dataclasses.asdict(TrainingResult(Path("x"), steps=1, seconds=1.0, final_loss=None, log=())),
}
del RESULT["folder"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RESULT)[:-1],
        json.dumps({**RESULT, "schema": SCHEMA + 1}),
        json.dumps({**RESULT, "command": "rm"}),
        json.dumps({"schema": SCHEMA, "steps": 1}),
        json.dumps({name: value for name, value in RESULT.items() if name != "schema"}),
        '"done"',
    ],
    ids=["cut", "another version", "foreign field", "missing fields", "no version", "no object"],
)
def test_a_result_that_is_not_whole_or_not_ours_is_refused(
    text: str, exchange: Exchange, tmp_path: Path
) -> None:
    (exchange.folder / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"no TrainingResult|is not of version|line 1 column"):
        exchange.result(tmp_path)


def test_a_file_that_is_too_large_to_be_ours_is_not_read(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.finish(TrainingResult(tmp_path, steps=1, seconds=1.0, final_loss=None, log=()))
    monkeypatch.setattr("pytest_finetune.training.processes.exchange.MAX_BYTES", 8)
    with pytest.raises(ValueError, match=r"result\.json has \d+ bytes"):
        exchange.result(tmp_path)


def test_foreign_lines_and_failures_are_refused(exchange: Exchange) -> None:
    (exchange.folder / "progress.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match="no Progress"):
        list(exchange.told(0))
    (exchange.folder / "error-0.json").write_text(json.dumps({"schema": SCHEMA, "kind": "training"}))
    with pytest.raises(ValueError, match="no Failure"):
        exchange.failures()


def test_the_shape_that_the_others_are_broken_from_is_right(exchange: Exchange) -> None:
    (exchange.folder / "result.json").write_text(json.dumps(RESULT))
    found = exchange.result(Path("x"))
    assert found is not None
    assert found.steps == 1
