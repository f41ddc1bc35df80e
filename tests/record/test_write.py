"""The record's folder holds what the record names, whole or not at all, and nothing of an earlier one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.record.partial import folder_for, why_partial
from pytest_finetune.record.validate import problems
from pytest_finetune.record.write import outputs_path, record_json, write_record


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_one_experiment_writes_record_note_and_one_file_an_arm(
    make: Callable[[str], Any], tmp_path: Path
) -> None:
    sample = make("keep")
    write_record(tmp_path / "deep" / "record", *sample)
    arms = {f"outputs/{arm}.jsonl" for arm in ("baseline", "prompted", "tuned")}
    assert files(tmp_path / "deep" / "record") == {"record.json", "decision.md", *arms}
    assert {arm["outputs"] for arm in sample.record["experiments"][0]["arms"].values()} == arms


def test_several_experiments_have_a_folder_each(make: Callable[[str], Any], tmp_path: Path) -> None:
    sample = make("several")
    write_record(tmp_path, *sample)
    named = {arm["outputs"] for run in sample.record["experiments"] for arm in run["arms"].values()}
    assert files(tmp_path) == {"record.json", "decision.md", *named}
    assert "outputs/wide/tuned.jsonl" in named


def test_outputs_are_raw_one_json_value_a_line(make: Callable[[str], Any], tmp_path: Path) -> None:
    sample = make("keep")
    raw = ' \n{"a": "b"}\t\u2028 \x1b[31m caf\u00e9 \ud83d  '
    sample.answers["finetune"]["tuned"][0]["response"] = raw
    write_record(tmp_path, *sample)
    lines = (tmp_path / "outputs/tuned.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == sample.answers["finetune"]["tuned"]


def test_the_written_record_is_the_record_and_valid(sample: Any, tmp_path: Path) -> None:
    write_record(tmp_path, *sample)
    text = (tmp_path / "record.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == sample.record
    assert problems(json.loads(text)) == []


def test_key_order_does_not_depend_on_the_order_of_the_evidence(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    shuffled = json.loads(json.dumps(record, sort_keys=True))
    assert record_json(shuffled) == record_json(record)
    assert list(json.loads(record_json(record)))[:3] == ["schema_version", "created", "project"]


def test_a_number_that_is_not_finite_becomes_null(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    record["experiments"][0]["training"].update(final_loss=float("nan"), seconds=float("inf"))
    training = json.loads(record_json(record))["experiments"][0]["training"]
    assert (training["final_loss"], training["seconds"]) == (None, None)


def test_a_lone_surrogate_survives(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    record["experiments"][0]["held_out"][0]["input"] = "half \ud83d"
    text = record_json(record)
    text.encode("utf-8")
    assert json.loads(text) == record


def test_frozen_containers_are_written_as_json(make: Callable[[str], Any]) -> None:
    from types import MappingProxyType

    record = make("keep").record
    record["experiments"][0]["overrides"] = MappingProxyType({"lora.target_modules": ("q_proj",)})
    written = json.loads(record_json(MappingProxyType(record)))
    assert written["experiments"][0]["overrides"] == {"lora.target_modules": ["q_proj"]}


def test_outputs_of_an_earlier_record_go_and_foreign_files_stay(
    make: Callable[[str], Any], tmp_path: Path
) -> None:
    write_record(tmp_path, *make("several"))
    for mine in ("outputs/mine.jsonl", "outputs/wide/mine.txt", "report.html"):
        (tmp_path / mine).write_text("mine")
    write_record(tmp_path, *make("discard"))
    kept = {"outputs/mine.jsonl", "outputs/wide/mine.txt", "report.html"}
    assert files(tmp_path) == {
        "record.json",
        "decision.md",
        "outputs/baseline.jsonl",
        "outputs/tuned.jsonl",
        *kept,
    }
    assert not (tmp_path / "outputs" / "small").exists()


def test_a_doctored_earlier_record_cannot_point_outside_the_outputs(
    make: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = tmp_path / "record"
    write_record(folder, *make("keep"))
    victims = [tmp_path / "victim.jsonl", folder / "victim.jsonl"]
    for victim in victims:
        victim.write_text("precious")
    earlier = json.loads((folder / "record.json").read_text())
    earlier["experiments"][0]["arms"]["tuned"]["outputs"] = "outputs/../../victim.jsonl"
    earlier["experiments"][0]["arms"]["baseline"]["outputs"] = "victim.jsonl"
    (folder / "record.json").write_text(json.dumps(earlier))
    write_record(folder, make("crash").record, {})
    assert all(victim.read_text() == "precious" for victim in victims)


def test_an_unreadable_earlier_record_is_replaced(make: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(b"\xff{not json")
    write_record(tmp_path, *make("keep"))
    assert json.loads((tmp_path / "record.json").read_text())["schema_version"] == "1"


def test_a_write_that_fails_leaves_the_earlier_file_and_no_litter(
    make: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path, *make("keep"))
    before = (tmp_path / "record.json").read_bytes()

    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(tmp_path, *make("discard"))
    assert (tmp_path / "record.json").read_bytes() == before
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("experiment", "arm", "path"),
    [
        ("small", "tuned", "outputs/small/tuned.jsonl"),
        ("../../etc", "a/b", "outputs/etc-74ccf3c5/a-b-c14cddc0.jsonl"),
        ("..", "", "outputs/5ec1f7e7/e3b0c442.jsonl"),
    ],
)
def test_names_cannot_leave_the_folder(experiment: str, arm: str, path: str) -> None:
    assert outputs_path(experiment, arm, several=True) == path


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_no_two_names_meet_in_one_file(names: list[str]) -> None:
    paths = [outputs_path(name, "tuned", several=True) for name in names]
    assert paths[0] != paths[1]
    for path in paths:
        assert re.fullmatch(r"outputs/(?!\.)[A-Za-z0-9_.-]+/tuned\.jsonl", path)


def test_the_same_record_writes_the_same_bytes(make: Callable[[str], Any], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_record(tmp_path / folder, *make("several"))
    for name in files(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("case", "changes", "why"),
    [
        ("keep", {}, ""),
        ("iterate", {}, ""),
        ("keep", {"notes": ["narrowed run: -k 'x'"]}, "it was narrowed"),
        ("keep", {"exit_status": 2}, "it was broken off"),
        ("gate_closed", {}, "could not be judged"),
    ],
)
def test_only_the_record_of_a_whole_run_takes_the_place_of_one(
    tmp_path: Path, make: Callable[[str], Any], case: str, changes: dict[str, Any], why: str
) -> None:
    record = {**make(case).record, **changes}
    assert why_partial(record).endswith(why)
    assert bool(why_partial(record)) == bool(why)
    assert folder_for(tmp_path, why) == tmp_path
    write_record(tmp_path, {**make("keep").record, "notes": ["narrowed run: -x"]}, {})
    assert folder_for(tmp_path, why) == tmp_path
    write_record(tmp_path, make("keep").record, {})
    assert folder_for(tmp_path, why) == (tmp_path / "partial" if why else tmp_path)
