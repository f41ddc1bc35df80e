"""`pytest-finetune calibrate`: real bases and projects, and a stand-in for what only a card can measure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pytest_finetune import errors
from pytest_finetune.cli import calibrate, calibration
from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.calibration import FIELDS, GRID, METHODS, Cell
from pytest_finetune.cli.entry import main
from pytest_finetune.experiment import load_experiment
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.cards import ADA
from pytest_finetune.memory.hardware.sizes import GiB
from pytest_finetune.memory.plan.plan import workload_of

CARD = Budget("NVIDIA L4", "cuda", 22 * GiB, 21 * GiB, driver="580.65", runtime="CUDA 13.0", family=ADA)
MEMORY = {
    "predicted_peak_bytes": 9 * GiB,
    "allocated_bytes": 7 * GiB,
    "reserved_bytes": 8 * GiB,
    "tokens": 40,
    "batch": 2,
}
MEASURED = {
    "measured_peak_bytes": 10 * GiB,
    "measured_allocated_bytes": 7 * GiB,
    "measured_reserved_bytes": 9 * GiB,
}


def recording(project: Path) -> None:
    """Stand in for a session on a card."""
    folder = project / "finetune-record"
    folder.mkdir()
    record = {"experiments": [{"memory": {**MEMORY, **MEASURED}}]}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibrate, "detect", lambda *args, **named: CARD)
    monkeypatch.setattr(calibrate, "GRID", (Cell("tiny", "lora", 2, 40),))
    monkeypatch.setattr(calibration, "make_elsewhere", lambda shape, folder: None)
    monkeypatch.setattr(calibration, "run_session", recording)
    return tmp_path / "cards.csv"


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_appended_and_the_errors_are_told(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [main(["calibrate", f"--into={table}"]) for _ in range(2)] == [0, 0]
    first, second = rows_of(table)
    assert first == second
    assert list(first) == list(FIELDS)
    assert (first["card"], first["driver"], first["shape"], first["method"]) == (
        "NVIDIA L4",
        "580.65",
        "tiny",
        "lora",
    )
    assert (int(first["predicted_peak_bytes"]), int(first["measured_peak_bytes"])) == (9 * GiB, 10 * GiB)
    said = capsys.readouterr().out
    assert "9.0 GiB" in said
    assert "-10.0%" in said
    assert f"1 row with a measurement, appended to {table}" in said


def test_a_cell_that_measured_nothing_is_kept_as_a_row_and_the_answer_is_no(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "run_session", lambda project: None)
    assert main(["calibrate", f"--into={table}"]) == 1
    assert rows_of(table)[0]["measured_peak_bytes"] == ""
    assert "not measured" in capsys.readouterr().out


def test_another_table_is_left_alone(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text("mine\n", encoding="utf-8")
    assert main(["calibrate", f"--into={table}"]) == 2
    assert "is another table" in capsys.readouterr().err
    assert table.read_text(encoding="utf-8") == "mine\n"


def test_without_a_card_nothing_is_measured_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate, "detect", lambda *args, **named: Budget("Some CPU", "cpu", GiB, GiB))
    assert main(["calibrate", f"--into={tmp_path / 'cards.csv'}"]) == 2
    assert (
        "no card is here that counts its memory (Some CPU): nothing was measured" in capsys.readouterr().err
    )
    assert not (tmp_path / "cards.csv").exists()


def test_what_trains_is_missing_and_is_named_before_anything_is_made(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "trl" else object())
    assert main(["calibrate", f"--into={table}"]) == 2
    said = "calibrate trains with trl, which is not installed: pip install 'pytest-finetune[train]'"
    assert said in capsys.readouterr().err
    assert not table.exists()


def test_a_base_that_cannot_be_made_is_said_with_the_last_words_of_its_process(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("in the way", encoding="utf-8")
    with pytest.raises(CommandError) as caught:
        calibration.make_elsewhere("tiny", tmp_path / "a file" / "base")
    said = str(caught.value)
    assert said.startswith("the base of the shape tiny could not be made: NotADirectoryError: ")
    assert said.endswith("(what was measured before it is kept; --shape takes another)")


def test_every_cell_is_an_experiment_that_can_be_planned_on_a_base_made_on_the_spot(tmp_path: Path) -> None:
    base = tmp_path / "base"
    calibration.make_base("tiny", base)
    assert {cell.method for cell in GRID} == set(METHODS)
    for cell in GRID:
        project = tmp_path / f"{cell.shape}-{cell.method}"
        calibration.write_project(cell, base, project)
        experiment = load_experiment(project, "finetune.yaml")
        workload, _ = workload_of(experiment, None)
        assert (workload.batch, workload.tokens, workload.checkpointing) == (
            cell.batch,
            cell.tokens,
            cell.checkpointing,
        )


def test_the_collected_rows_have_the_heading_that_is_written() -> None:
    file = Path(__file__).resolve().parents[2] / "benchmarks/results/cards.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        assert next(csv.reader(stream)) == list(FIELDS)
