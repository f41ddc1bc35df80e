"""A store on a URL that cannot be reached, or that cannot be meant: each a message, nothing lost, no small number of looks."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.store import Look, Store, StoreError, collect, open_store
from pytest_finetune.store.shared.bucket import Bucket
from pytest_finetune.store.shared.upstream import UpstreamError

from .conftest import Open, Write

KEY = "a" * 64
LOOK = Look("adapter", "answers", "rules", frozenset({"row1", "row2"}))


class Unplugged:
    """Stands for a network that is gone: every call of the file system fails."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fail(*args: object, **kwargs: object) -> object:
            raise ConnectionError("Network is unreachable")

        return fail


def unplug(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.upstream is not None
    monkeypatch.setattr(store.upstream._bucket, "_files", Unplugged())  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_without_the_network_nothing_is_lost_and_the_next_run_uploads(
    machine: Open, adapter: Callable[..., Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine("here")
    with monkeypatch.context() as gone:
        unplug(here, gone)
        assert here.read("adapters", KEY) is None
        entry = here.commit("adapters", KEY, adapter(1.0))
        here.looks.register(LOOK, {})
        said = "\n".join(here.warnings)
        assert "counts as a miss: cannot read" in said
        assert "ConnectionError: Network is unreachable" in said
        assert f"adapters/{KEY[:12]} was not uploaded: " in said
        assert f"it is whole in {entry.path}, and the next run that uses it uploads it" in said
        assert "this look is counted on this machine only: " in said
    here.close()
    kept = collect(machine("here"), max_bytes=0).kept
    assert "not uploaded yet" in str(kept)
    again = machine("here")
    assert again.read("adapters", KEY) is not None
    assert again.looks.register(LOOK, {}) == 1
    other = machine("there")
    assert other.read("adapters", KEY) is not None
    assert other.looks.earlier(Look("another", "answers", "rules", LOOK.rows)) == 2


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_looks_that_cannot_be_read_are_an_error_and_never_a_small_number(
    machine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine("here")
    unplug(here, monkeypatch)
    with pytest.raises(
        StoreError, match=r"earlier looks at these rows are not known: .* too easy: run again"
    ):
        here.looks.earlier(LOOK)


def test_a_bucket_that_is_not_there_is_named(s3: str, tmp_path: Path) -> None:
    store = open_store(f"s3://b{uuid.uuid4().hex}/store", tmp_path)
    assert store.read("adapters", KEY) is None
    (warning,) = store.warnings
    assert "bucket does not exist" in warning


def test_names_that_lead_out_of_an_entry_are_refused(tmp_path: Path, adapter: Callable[..., Write]) -> None:
    from pytest_finetune.store.manifest import MANIFEST, FileRecord, render

    bucket = Bucket(f"memory://{uuid.uuid4().hex}")
    manifest = render("adapters", KEY, {"../../evil.json": FileRecord("0" * 64, 2)}, {}, {}, "now")
    bucket.put(f"adapters/{KEY}/{MANIFEST}", manifest)
    store = open_store(bucket.url, tmp_path)
    assert store.read("adapters", KEY) is None
    assert "'../../evil.json' would lead out of the entry" in store.warnings[0]
    assert list(tmp_path.rglob("evil.json")) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("simplecache::s3://bucket", "a chain of file systems cannot be a store"),
        ("://bucket", "write a folder or scheme://place"),
        ("s3://me:secret@host/bucket", "give credentials through the environment"),
        ("nosuch://bucket", "Protocol not known: nosuch"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(address, tmp_path)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_package_that_is_missing_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(StoreError, match=r"needs fsspec: pip install 'pytest-finetune\[remote\]'"):
        open_store("s3://bucket", tmp_path)


def test_an_object_is_written_first_once(tmp_path: Path) -> None:
    bucket = Bucket(f"memory://{uuid.uuid4().hex}")
    assert bucket.put_first("a", b"1")
    assert not bucket.put_first("a", b"2")
    assert bucket.get("a") == b"1"


def test_a_failed_read_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(f"memory://{uuid.uuid4().hex}")
    with monkeypatch.context() as gone:
        gone.setattr(bucket, "_files", Unplugged())
        with pytest.raises(UpstreamError, match=r"cannot read a at memory://.*: ConnectionError: Network"):
            bucket.get("a")
    with pytest.raises(UpstreamError, match="ConnectionError"):
        bucket.get("b")
