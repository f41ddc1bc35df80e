"""Data sets of the `datasets` library where a file of rows is named: saved folders, and what its cache holds of the hub."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.data_files import DataFilesDict
from datasets.load import configure_builder_class
from datasets.packaged_modules.json.json import Json, JsonConfig

from pytest_finetune.data.data_sets import DataSetError, digest_of, fetch_data_set, is_here
from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.experiment.data_sets import naming_problem

ROWS = [{"text": f"mail {n}", "label": "refund" if n % 2 else "praise"} for n in range(5)]
CLASSES = datasets.Features(
    text=datasets.Value("string"), label=datasets.ClassLabel(names=["praise", "refund"])
)
OLD, NEW = "a" * 40, "b" * 40


def said(rows: Rows) -> list[tuple[str, str]]:
    return [(row.input, row.output) for row in rows]


def rules(rows: Rows) -> list[str]:
    return [one.rule for one in (*rows.defects, *rows.notes)]


def saved(root: Path, name: str, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> str:
    datasets.Dataset.from_list(rows, features=CLASSES).save_to_disk(str(root / name), **settings)
    return name


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the caches of the hub lie."""
    for variable in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(
    hub: Path,
    commit: str,
    splits: Mapping[str, list[dict[str, Any]]],
    config: str = "default",
    name: str = "acme/OddMails",
) -> None:
    """Put a data set into the cache with the library's own builder, as a download of that commit leaves it there."""
    source = hub / "source"
    source.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, rows in splits.items():
        (source / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = [str(source / f"{split}.jsonl")]
    written = datasets.naming.camelcase_to_snakecase(name.split("/")[1])
    kind = configure_builder_class(
        Json, builder_configs=[JsonConfig(name=config)], default_config_name=config, dataset_name=written
    )
    builder = kind(
        cache_dir=str(hub / "datasets"), dataset_name=written, config_name=config, hash=commit, repo_id=name
    )
    builder.config.data_files = DataFilesDict.from_patterns(files)
    builder.download_and_prepare()


def test_a_saved_folder_is_read_by_row_number_and_its_classes_by_their_names(tmp_path: Path) -> None:
    name = saved(tmp_path, "mails", num_shards=2)
    rows = read_rows(tmp_path, name, "train")
    assert said(rows) == [(row["text"], row["label"]) for row in ROWS]
    assert [row.place for row in rows] == [f"mails:{n}" for n in range(1, 6)]
    assert rows.defects == rows.notes == ()
    saved(tmp_path, "other", ROWS[:4])
    one_file = read_rows(tmp_path, saved(tmp_path, "again"), "train")
    assert one_file.sha256 == rows.sha256 == digest_of(tmp_path, "mails")
    assert digest_of(tmp_path, "other") != rows.sha256
    (arrow, *_) = (tmp_path / "again").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:400])
    assert rules(read_rows(tmp_path, "again", "train")) == ["data/damaged-archive"]


def test_an_arrow_file_alone_is_read_and_columns_are_mapped(tmp_path: Path) -> None:
    folder = tmp_path / saved(tmp_path, "mails")
    (file,) = folder.glob("*.arrow")
    rows = read_rows(tmp_path, f"mails/{file.name}", "train", columns={"question": "text", "answer": "label"})
    assert said(rows) == [(row["text"], row["label"]) for row in ROWS]


def test_conversations_have_no_empty_cells_and_further_columns_may_hold_anything(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "hi", "name": None},
        {"role": "assistant", "content": "ho", "name": None},
    ]
    row = {"messages": messages, "at": datetime.datetime(2026, 1, 2), "score": float("nan"), "tags": None}
    datasets.Dataset.from_list([row]).save_to_disk(str(tmp_path / "chats"))
    rows = read_rows(tmp_path, "chats", "train")
    assert (said(rows), rows.defects) == ([("hi", "ho")], ())
    assert rows[0].raw["at"] == "2026-01-02 00:00:00"
    assert "score" not in rows[0].raw


def test_what_the_cache_holds_is_read_at_the_commit_that_is_asked_for(hub: Path, tmp_path: Path) -> None:
    cached(hub, OLD, {"train": ROWS[:2], "test": ROWS[4:]})
    rows = read_rows(tmp_path, "hf://datasets/acme/OddMails/train", "train")
    assert said(rows) == [(row["text"], row["label"]) for row in ROWS[:2]]
    assert [row.place for row in rows] == [f"hf://datasets/acme/OddMails/train:{n}" for n in (1, 2)]
    (note,) = rows.notes
    assert (note.rule, note.read) == ("data/revision", f"its rows are those of commit {OLD}")
    assert f"hf://datasets/acme/OddMails@{OLD}/train" in note.fix
    cached(hub, NEW, {"train": ROWS[:3], "test": ROWS[4:]})
    assert len(read_rows(tmp_path, "hf://datasets/acme/OddMails/train", "train")) == 3
    held = read_rows(tmp_path, f"hf://datasets/acme/OddMails@{OLD}/train", "train")
    assert (said(held), held.notes, held.sha256) == (said(rows), (), rows.sha256)
    reference = hub / "hub" / "datasets--acme--OddMails" / "refs" / "v1"
    reference.parent.mkdir(parents=True)
    reference.write_text(OLD)
    assert said(read_rows(tmp_path, "hf://datasets/acme/OddMails@v1/default/train", "train")) == said(rows)


def test_what_the_library_itself_finds_in_the_cache_are_the_same_rows(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(hub, OLD, {"train": ROWS})
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", hub / "datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    theirs = datasets.load_dataset("acme/OddMails", split="train")
    rows = read_rows(tmp_path, "hf://datasets/acme/OddMails", "train")
    assert [dict(row.raw) for row in rows] == list(theirs) == ROWS


def test_what_is_not_in_the_cache_or_not_clear_is_one_finding_with_what_there_is(
    hub: Path, tmp_path: Path
) -> None:
    def told(named: str) -> str:
        rows = read_rows(tmp_path, named, "train")
        assert (len(rows), rules(rows), rows.sha256) == (0, ["data/data-set"], "")
        assert not is_here(named)
        return rows.defects[0].read + " " + rows.defects[0].fix

    absent = told("hf://datasets/acme/OddMails/train")
    assert "acme/OddMails is not in the cache of `datasets`" in absent
    assert "`pytest-finetune fetch`" in absent
    cached(hub, OLD, {"train": ROWS, "test": ROWS})
    assert "holds default/train, default/test in the cache: name one of them" in told(
        "hf://datasets/acme/OddMails"
    )
    assert "default/test" in told("hf://datasets/acme/OddMails/tests")
    assert f"acme/OddMails at {NEW} is not in the cache" in told(f"hf://datasets/acme/OddMails@{NEW}/train")
    cached(hub, OLD, {"train": ROWS}, config="german")
    german = read_rows(tmp_path, "hf://datasets/acme/OddMails/german", "train")
    assert (len(german), is_here("hf://datasets/acme/OddMails/german/train")) == (5, True)
    shutil.rmtree(hub / "source")
    for file in (hub / "datasets").rglob("odd_mails-train.arrow"):
        file.unlink()
    assert "is not whole in the cache" in told("hf://datasets/acme/OddMails/german/train")


def test_a_name_that_names_no_rows_is_a_mistake_of_the_experiment(tmp_path: Path) -> None:
    datasets.DatasetDict(
        train=datasets.Dataset.from_list(ROWS), test=datasets.Dataset.from_list(ROWS)
    ).save_to_disk(str(tmp_path / "both"))
    assert naming_problem(tmp_path / "both", "both") == (
        "it holds the splits test, train: name one of them, as both/test"
    )
    assert naming_problem(tmp_path / "both/train", "both/train") is None
    assert "no data set that `datasets` saved" in str(naming_problem(tmp_path, "."))
    for named in ("hf://acme/mails", "hf://datasets/mails", "hf://datasets/a/b/c/d/e"):
        assert "hf://datasets/ORG/NAME[@REVISION]" in str(naming_problem(tmp_path / named, named))


def test_fetching_asks_the_hub_for_the_revision_and_takes_one_word_for_split_or_configuration(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def load(name: str, config: str | None, revision: str | None) -> None:
        asked.append((name, config, revision))
        if config != "german":
            raise ValueError("Config name is missing.\nPlease pick one")
        cached(hub, OLD, {"train": ROWS}, config="german")

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = fetch_data_set("hf://datasets/acme/OddMails/german")
    assert (found.commit, len(found.files)) == (OLD, 1)
    assert asked == [("acme/OddMails", None, None), ("acme/OddMails", "german", None)]
    with pytest.raises(DataSetError, match="could not be fetched: Config name is missing"):
        fetch_data_set("hf://datasets/acme/other@v1/train")
    monkeypatch.setattr(
        "pytest_finetune.data.data_sets.lacking", lambda *_: "datasets, which is not installed"
    )
    with pytest.raises(DataSetError, match="fetching it needs datasets, which is not installed"):
        fetch_data_set("hf://datasets/acme/other")
