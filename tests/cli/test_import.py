"""From files as people have them to training rows, held-out rows and a contract that these rows keep."""

from __future__ import annotations

import csv
import errno
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.cli.writing import write_new
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran

WORDS = [
    "card",
    "cash",
    "rate",
    "app",
    "fee",
    "pin",
    "code",
    "shop",
    "bank",
    "bill",
    "note",
    "coin",
    "sale",
    "loan",
    "debt",
    "fund",
]
LABELS = ("card_arrival", "declined", "refund")


def questions(count: int) -> list[tuple[str, str]]:
    """Return questions of eight words, no two of them near duplicates, and the label of each."""
    made = []
    for n in range(count):
        one, other = WORDS[n % 16], WORDS[n // 16 % 16]
        made.append((f"{one}{n} {other} why {other}{n} is {one} not {n}", LABELS[n % 3]))
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "tickets.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["body", "category", "customer"])
        writer.writerows((body, label, f"c{n // 2}") for n, (body, label) in enumerate(questions(120)))
        writer.writerow([*questions(1)[0], "c0"])  # stands there twice
        writer.writerow(["half a row"])
    return file


def test_a_table_becomes_two_files_that_keep_the_drafted_contract(
    run: Callable[..., Ran], table: Path, tmp_path: Path
) -> None:
    to = tmp_path / "project"
    ran = run("import", table, "--to", to, "--column", "prompt=body", "--column", "completion=category")
    assert ran.code == 0
    assert "120 rows: 96 to train on, 24 held out (20.0%, 20.0% asked)" in ran.out
    assert "3 labels as answers, each held out in its share" in ran.out
    assert "left out: 1 row that stand there twice" in ran.out
    assert f"left out: {table}:123: 1 cell under 3 columns" in ran.out
    train, held_out = read_rows(to, "data/train.jsonl", "train"), read_rows(to, "eval/check.jsonl", "eval")
    assert [sum(row.output == label for row in held_out) for label in LABELS] == [8, 8, 8]
    contract = Contract.load(to, "data/contract.yaml")
    assert contract.findings(train, held_out) == []
    assert contract.labels is not None
    assert set(contract.labels.values or ()) == set(LABELS)


def test_a_group_and_near_duplicates_stay_on_one_side_and_the_split_hangs_on_the_rows_alone(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    for n, (body, label) in enumerate(questions(60)):
        rows.append({"text": body, "label": label, "customer": f"c{n // 2}"})
        rows.append({"text": f"{body} please", "label": label, "customer": f"other {n}"})
    sides: list[set[str]] = []
    for order in (rows, rows[::-1]):
        (tmp_path / "r.json").write_text(json.dumps(order))
        to = tmp_path / str(len(sides))
        assert run("import", tmp_path / "r.json", "--to", to, "--group", "customer").code == 0
        held_out = read_rows(to, "eval/check.jsonl", "eval")
        train = read_rows(to, "data/train.jsonl", "train")
        sides.append({row.digest for row in held_out})
        assert 12 <= len(held_out) <= 24
        assert not {row.group for row in train} & {row.group for row in held_out}
        asked = [{row.input.removesuffix(" please") for row in side} for side in (train, held_out)]
        assert not asked[0] & asked[1]
    assert sides[0] == sides[1]


def test_conversations_with_json_answers_get_a_schema_and_a_label_field(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": body},
                {"from": "gpt", "value": json.dumps({"kind": label, "n": n})},
            ]
        }
        for n, (body, label) in enumerate(questions(60))
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("import", tmp_path / "r.jsonl", "--to", tmp_path / "p").code == 0
    contract = Contract.load(tmp_path / "p", "data/contract.yaml")
    assert contract.problems_of('{"kind": "refund", "n": 3}') == []
    assert contract.problems_of('{"kind": "other", "n": 3}')
    assert contract.label_of('{"kind": "refund", "n": 3}') == "refund"


def test_a_data_set_is_read_with_the_names_of_its_labels(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=list(LABELS)))
    rows = [{"text": body, "label": label} for body, label in questions(30)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    ran = run("import", tmp_path / "saved", "--to", tmp_path / "p", "--json")
    assert ran.tree["labels"] == dict.fromkeys(LABELS, 10)
    cache = tmp_path / "cache" / "acme___mails" / "default" / "0.0.0" / ("c" * 40)

    def fetch(name: str, config: str | None, revision: str | None) -> None:
        if (name, revision) != ("acme/mails", "v2"):
            raise ConnectionError("the hub cannot be reached")
        cache.mkdir(parents=True)
        (arrow,) = (tmp_path / "saved").glob("*.arrow")
        arrow.rename(cache / "mails-train.arrow")
        info = {"config_name": "default", "splits": {"train": {"name": "train"}}}
        (cache / "dataset_info.json").write_text(json.dumps(info))
        reference = tmp_path / "hub" / "datasets--acme--mails" / "refs" / "v2"
        reference.parent.mkdir(parents=True)
        reference.write_text("c" * 40)

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets, "load_dataset", fetch)
    ran = run("import", "hf://datasets/acme/mails@v2/train", "--to", tmp_path / "q", "--json")
    assert ran.tree["labels"] == dict.fromkeys(LABELS, 10)
    assert "hf://datasets/ORG/NAME" in run("import", "hf://datasets/mails").err
    assert (
        "hf://datasets/acme/other/test could not be fetched: the hub cannot be reached"
        in run("import", "hf://datasets/acme/other/test").err
    )
    assert "there is no such file" in run("import", tmp_path / "nowhere.jsonl").err


def test_what_exists_is_left_and_unknown_columns_are_named_once(
    run: Callable[..., Ran], table: Path, tmp_path: Path
) -> None:
    ran = run("import", table, "--to", tmp_path / "p")
    assert ran.code == 2
    assert "121 rows, first" in ran.err
    assert "--column prompt=THEIRS" in ran.err
    (tmp_path / "empty.csv").write_text("text,label\nhello,\n ,greeting\nhow are you,greeting\n")
    ran = run("import", tmp_path / "empty.csv", "--to", tmp_path / "q")
    assert ran.code == 2
    assert f"left out: 2 rows with an empty question or answer, first {tmp_path / 'empty.csv'}:2" in ran.err
    assert "--column inputs=body: write OURS=THEIRS" in run("import", table, "--column", "inputs=body").err
    columns = ("--column", "prompt=body", "--column", "completion=category")
    windows = tmp_path / "windows.jsonl"
    windows.write_bytes(b'{"text": "how are you", "label": "greeting"}\r\n')
    ran = run("import", table, windows, "--to", tmp_path / "p", *columns)
    assert f"noted: {windows}:1: 1 of 1 lines end with CRLF" in ran.out
    before = (tmp_path / "p" / "data" / "train.jsonl").read_bytes()
    again = run("import", table, "--to", tmp_path / "p", "--split", "50%", *columns)
    assert again.code == 1
    assert sum(line.startswith("exists ") for line in again.out.splitlines()) == 3
    assert (tmp_path / "p" / "data" / "train.jsonl").read_bytes() == before


def test_labels_in_two_spellings_are_noted_and_a_file_without_rows_says_what_to_do(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    table = [(text, label.upper() if n % 5 == 0 else label) for n, (text, label) in enumerate(questions(60))]
    lines = [("prompt", "completion"), *table]
    for name, count in (("rows", 61), ("head", 1), ("one", 2)):
        (tmp_path / f"{name}.csv").write_text("".join(f"{text},{label}\n" for text, label in lines[:count]))
    noted = "  noted: the labels 'refund' and 'REFUND' differ in spelling alone: write them in one way and import again"
    assert noted in run("import", tmp_path / "rows.csv", "--to", tmp_path / "p").out.splitlines()
    none = run("import", tmp_path / "head.csv", "--to", tmp_path / "q").err
    assert none.splitlines()[1:] == ["  add rows, or name the right file"]
    assert "there is 1 row to use, which cannot be split" in run("import", tmp_path / "one.csv").err


def test_a_file_that_cannot_be_written_whole_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path: Path, mode: str) -> Full:
        path.touch()
        return Full()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="No space left"):
        write_new(tmp_path / "data" / "train.jsonl", b"{}")
    assert list((tmp_path / "data").iterdir()) == []
