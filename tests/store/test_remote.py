"""A store on a URL, on three file systems: memory, a folder, and a real S3 server that the tests start."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_finetune.store import Look, Store, StoreError, collect, open_store
from pytest_finetune.store.bucket import Bucket
from pytest_finetune.store.upstream import UpstreamError

Write = Callable[[Path], None]
Open = Callable[..., Store]

KEY = "a" * 64
LOOK = Look("adapter", "answers", "rules", frozenset({"row1", "row2"}))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start moto's S3 server on a free port; its address is in the environment meanwhile."""
    from moto.server import ThreadedMotoServer

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


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on each of the file systems."""
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/store"
    request.getfixturevalue("s3")
    import s3fs

    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/team/store"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Open:
    """Open the store as a machine with this name would, with a cache of its own."""

    def opened(name: str, *, readonly: bool = False) -> Store:
        return open_store(url, tmp_path / name, readonly=readonly)

    return opened


def objects(store: Store) -> list[str]:
    """Name every object of the store behind the URL."""
    assert store.upstream is not None
    files, root = store.upstream._bucket._files, store.upstream._bucket._root  # type: ignore[attr-defined]
    files.invalidate_cache()
    return sorted(str(path) for path in files.find(root))


def change(store: Store, path: str, data: bytes | None) -> None:
    assert store.upstream is not None
    files = store.upstream._bucket._files  # type: ignore[attr-defined]
    files.rm_file(path) if data is None else files.pipe_file(path, data)


def content(store: Store, path: str) -> bytes:
    assert store.upstream is not None
    return bytes(store.upstream._bucket._files.cat_file(path))  # type: ignore[attr-defined]


def test_what_one_machine_commits_another_one_reads(machine: Open, adapter: Callable[..., Write]) -> None:
    here, there = machine("here"), machine("there")
    assert (here.read("adapters", KEY), here.warnings) == (None, [])
    committed = here.commit("adapters", KEY, adapter(1.0, 2.0, files={"docs/card.md": "hello"}), {"steps": 3})
    assert [entry.key for entry in there.entries("adapters")] == [KEY]
    brought = there.read("adapters", KEY)
    assert brought is not None
    assert (brought.digest, brought.about) == (committed.digest, {"steps": 3})
    assert brought.path.is_relative_to(there.root)
    assert (brought.path / "docs" / "card.md").read_text() == "hello"
    assert (here.warnings, there.warnings) == ([], [])


def write_json(folder: Path) -> None:
    (folder / "x.json").write_text("{}")


@pytest.mark.parametrize("kind", ["outputs", "plans", "records"])
def test_answers_plans_and_records_are_shared(machine: Open, kind: str) -> None:
    machine("here").commit(kind, KEY, write_json)
    entry = machine("there").read(kind, KEY)
    assert entry is not None
    assert (entry.path / "x.json").read_text() == "{}"


def test_a_base_stays_on_its_machine(machine: Open) -> None:
    here = machine("here")
    here.commit("bases", KEY, write_json)
    assert machine("there").read("bases", KEY) is None
    assert objects(here) == []


def test_of_two_writers_the_first_wins_and_both_have_its_adapter(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    one, two = machine("one"), machine("two")
    assert two.read("adapters", KEY) is None
    first = one.commit("adapters", KEY, adapter(1.0))
    second = two.commit("adapters", KEY, adapter(2.0))
    assert second.digest == first.digest
    assert two.warnings == []
    third = machine("three").read("adapters", KEY)
    assert third is not None
    assert third.digest == first.digest


def test_two_writers_at_the_same_time_leave_one_whole_adapter(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    both = threading.Barrier(2)
    stores = [machine(f"writer{n}") for n in range(2)]
    failed: list[BaseException] = []

    def write(n: int) -> None:
        try:
            both.wait()
            stores[n].commit("adapters", KEY, adapter(float(n + 1)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    reader = machine("reader")
    entry = reader.read("adapters", KEY)
    assert entry is not None
    assert reader.warnings == []
    assert entry.digest in {store.entries("adapters")[0].digest for store in stores}


def test_a_retraining_takes_the_place_of_what_was_shared(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    again = here.replace("adapters", KEY, adapter(2.0))
    found = machine("there").read("adapters", KEY)
    assert found is not None
    assert found.digest == again.digest


def test_a_flipped_bit_anywhere_is_a_miss_and_the_next_training_repairs_it(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here, chance = machine("here"), random.Random(5)
    here.commit("adapters", KEY, adapter(1.0, 2.0))
    places = objects(here)
    assert len(places) == 3
    for turn in range(12):
        place = places[turn % 3]
        whole = content(here, place)
        flipped = bytearray(whole)
        bit = chance.randrange(8 * len(whole))
        flipped[bit // 8] ^= 1 << bit % 8
        change(here, place, bytes(flipped))
        reader = machine(f"reader{turn}")
        assert reader.read("adapters", KEY) is None, (place, bit)
        (warning,) = reader.warnings
        assert "counts as a miss: " in warning
        assert list((reader.root / "adapters").glob("*")) == []
        change(here, place, whole)
    change(here, places[-1], b"damaged")
    mender = machine("mender")
    assert mender.read("adapters", KEY) is None
    mended = mender.commit("adapters", KEY, adapter(3.0))
    after = machine("after").read("adapters", KEY)
    assert after is not None
    assert after.digest == mended.digest


def test_an_upload_cut_off_before_its_manifest_is_no_entry(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    (manifest,) = [path for path in objects(here) if path.endswith("MANIFEST.json")]
    change(here, manifest, None)
    reader = machine("reader")
    assert (reader.read("adapters", KEY), reader.entries("adapters"), reader.warnings) == (None, [], [])


def test_a_file_of_an_entry_that_is_gone_is_named(machine: Open, adapter: Callable[..., Write]) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    (weights,) = [path for path in objects(here) if path.endswith(".safetensors")]
    change(here, weights, None)
    reader = machine("reader")
    assert reader.read("adapters", KEY) is None
    (warning,) = reader.warnings
    assert warning.endswith("counts as a miss: adapter_model.safetensors is missing")


def test_looks_are_counted_over_all_machines(machine: Open) -> None:
    one, two = machine("one"), machine("two")
    assert one.looks.register(LOOK, {"json": "t"}) == 1
    other = Look("another", "answers", "rules", LOOK.rows)
    assert two.looks.earlier(other) == 2
    assert two.looks.register(other, {"json": "u"}) == 2
    assert one.looks.earlier(Look("a third", "answers", "rules", LOOK.rows)) == 3
    assert one.looks.register(LOOK, {"json": "t"}) == 1
    assert one.looks.changed_after_look({"json": "u"}, LOOK.rows) == ("json",)


def test_notes_and_pins_are_shared(machine: Open, adapter: Callable[..., Write]) -> None:
    one, two = machine("one"), machine("two")
    one.commit("adapters", KEY, adapter(1.0))
    one.remember("classify", {"key": KEY})
    one.notes.pin("adapters", KEY, "promoted to production")
    assert two.last("classify") == {"key": KEY}
    assert two.read("adapters", KEY) is not None
    two.close()
    kept = collect(machine("two"), max_bytes=0)
    assert [why for _, why in kept.kept] == ["promoted to production"]
    one.notes.unpin("adapters", KEY)
    assert machine("three").notes.pinned("adapters", KEY) is None


def test_a_collection_clears_the_cache_and_nothing_that_is_shared(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    here.close()
    before = objects(here)
    assert len(collect(machine("here"), max_bytes=0).removed) == 1
    assert objects(here) == before
    assert machine("here").read("adapters", KEY) is not None


def test_readonly_reads_everything_and_writes_nothing(machine: Open, adapter: Callable[..., Write]) -> None:
    team, runner = machine("team"), machine("runner", readonly=True)
    team.commit("adapters", KEY, adapter(1.0))
    team.looks.register(LOOK, {})
    before = [(path, content(team, path)) for path in objects(team)]
    assert runner.read("adapters", KEY) is not None
    other = Look("another", "answers", "rules", LOOK.rows)
    assert runner.looks.register(other, {}) == 2
    runner.commit("adapters", "b" * 64, adapter(2.0))
    runner.remember("classify", {"key": KEY})
    runner.notes.pin("adapters", KEY, "mine")
    runner.notes.unpin("adapters", KEY)
    assert [(path, content(team, path)) for path in objects(team)] == before
    assert runner.read("adapters", "b" * 64) is not None
    assert runner.warnings == []


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


class TestSharedFolder:
    """A folder that is only read."""

    def test_reads_everything_and_writes_nothing(self, tmp_path: Path, adapter: Callable[..., Write]) -> None:
        team = Store(tmp_path / "team")
        team.commit("adapters", KEY, adapter(1.0))
        team.looks.register(LOOK, {})
        team.remember("classify", {"key": KEY})
        team.close()
        before = snapshot(team.root)
        runner = open_store("team", tmp_path, readonly=True)
        entry = runner.read("adapters", KEY)
        assert entry is not None
        assert entry.path.is_relative_to(tmp_path / ".finetune-cache")
        assert runner.last("classify") == {"key": KEY}
        assert runner.looks.register(Look("another", "answers", "rules", LOOK.rows), {}) == 2
        runner.commit("adapters", "b" * 64, adapter(2.0))
        runner.notes.pin("adapters", KEY, "mine")
        assert len(runner.entries("adapters")) == 2
        assert snapshot(team.root) == before
        assert runner.warnings == []

    def test_a_damaged_entry_is_a_miss_and_stays_where_it_is(
        self, tmp_path: Path, adapter: Callable[..., Write]
    ) -> None:
        team = Store(tmp_path / "team")
        entry = team.commit("adapters", KEY, adapter(1.0))
        weights = entry.path / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        before = snapshot(team.root)
        runner = open_store("team", tmp_path, readonly=True)
        assert runner.read("adapters", KEY) is None
        assert "does not match its checksum" in runner.warnings[0]
        assert snapshot(team.root) == before

    def test_one_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="there is no such folder to read"):
            open_store("nowhere", tmp_path, readonly=True)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
