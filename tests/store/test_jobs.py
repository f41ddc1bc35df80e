"""What a store holds of steps that run elsewhere: one writer a file, and the first who sends is the one who sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_finetune.store import Store, StoreError
from pytest_finetune.store.jobs import JOB, SENT, TOLD

if TYPE_CHECKING:
    from .conftest import Open

KEY = "0f" * 32


def test_one_of_two_machines_sends_and_both_read_what_is_told(machine: Open) -> None:
    here, there = machine("here").jobs, machine("there").jobs
    assert here.request(KEY) is None
    here.ask(KEY, {"does": "train", "rows": ["a"]})
    assert here.send(KEY, 1, {"host": "here"})
    assert not there.send(KEY, 1, {"host": "there"})
    here.know(KEY, 1, {"id": "17"})
    for beat in (1, 2):
        there.tell(KEY, 1, {"state": "running", "beat": beat})
    for book in (here, there):
        found = [book.read(KEY, 1, kind) or {} for kind in (SENT, JOB, TOLD)]
        assert [found[0]["host"], found[1]["id"], found[2]["beat"]] == ["here", "17", 2]
        assert book.attempt(KEY) == 1
    there.forget(KEY)
    assert here.request(KEY) is None


def test_in_a_folder_too_the_first_sends_and_its_file_is_whole(store: Store) -> None:
    other = Store(store.root).jobs
    assert store.jobs.send(KEY, 1, {"host": "a"})
    assert not other.send(KEY, 1, {"host": "b"})
    assert other.send(KEY, 2, {"host": "b"})
    assert store.jobs.attempt(KEY) == 2
    assert sorted(path.name for path in (store.root / "jobs" / KEY).iterdir()) == [
        "1-sent.json",
        "2-sent.json",
    ]


def test_a_request_that_is_damaged_is_not_taken(store: Store) -> None:
    store.jobs.ask(KEY, {"does": "train"})
    file = store.root / "jobs" / KEY / "request.json"
    file.write_bytes(file.read_bytes().replace(b"train", b"trail"))
    with pytest.raises(StoreError, match=r"request\.json is damaged: remove it"):
        store.jobs.request(KEY)


@pytest.mark.parametrize("key", ["../../etc/passwd", "ab", "AB" * 32, f"{KEY}/.."])
def test_a_key_never_leads_out_of_its_folder(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="is no key of a step"):
        store.jobs.ask(key, {})
