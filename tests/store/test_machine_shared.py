"""Two machines and one store on a URL against a model of them: whatever happens, nothing wrong is served or lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pytest_finetune.store import Look, Store, StoreError, collect, open_store
from pytest_finetune.store.shared.bucket import Bucket

KEYS = st.sampled_from(["a", "b"])
MACHINES = st.integers(0, 1)
CONTENTS = st.binary(min_size=1, max_size=20)


class Version(NamedTuple):
    """What one commit made: two commits of the same bytes are two versions."""

    number: int
    content: bytes


class Unreachable:
    """A file system at the end of a cut cable."""

    def __getattr__(self, name: str) -> Any:
        if name == "protocol":
            return "memory"

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError("no route to host")

        return fail


class SharedStoreMachine(RuleBasedStateMachine):
    """The model: what stands whole at the URL and in each cache, what is broken there, and what waits for its upload."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.url = f"memory://{uuid.uuid4().hex}/store"
        self.stores = [self.opened(who) for who in range(2)]
        self.caches: list[dict[str, Version]] = [{}, {}]
        self.unsent: list[set[str]] = [set(), set()]
        self.shared: dict[str, Version] = {}
        self.broken: dict[str, Version | None] = {}
        self.looks: dict[int, int] = {}
        self.count = 0

    def opened(self, who: int) -> Store:
        return open_store(self.url, self.root / f"machine{who}")

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        shutil.rmtree(getattr(self, "root", "nowhere"), ignore_errors=True)

    def bucket(self, who: int) -> Bucket:
        bucket = self.stores[who].upstream._bucket  # type: ignore[union-attr]
        assert isinstance(bucket, Bucket)
        return bucket

    def sent(self, who: int, key: str) -> None:
        """What an upload comes to: the first sound version wins, a broken one gives way to another."""
        mine = self.caches[who][key]
        if key in self.shared:
            self.caches[who][key] = self.shared[key]
        elif self.broken.get(key) != mine:  # the same manifest already stands there
            self.broken.pop(key, None)
            self.shared[key] = mine

    def put(self, who: int, key: str, content: bytes, *, replacing: bool = False) -> None:
        self.count += 1
        new = Version(self.count, content)
        self.caches[who][key] = new if replacing else self.caches[who].get(key, new)
        store = self.stores[who]
        about = {"version": self.count}
        entry = store.commit(
            "outputs", key, lambda folder: write(folder, content), about, replacing=replacing
        )
        self.served = (entry.path / "data").read_bytes()

    @rule(who=MACHINES, key=KEYS, content=CONTENTS)
    def commit(self, who: int, key: str, content: bytes) -> None:
        self.put(who, key, content)
        self.sent(who, key)
        assert self.served == self.caches[who][key].content

    @rule(who=MACHINES, key=KEYS, content=CONTENTS)
    def replace(self, who: int, key: str, content: bytes) -> None:
        self.put(who, key, content, replacing=True)
        self.broken.pop(key, None)
        self.shared[key] = self.caches[who][key]
        assert self.served == content

    @rule(who=MACHINES, key=KEYS, content=CONTENTS)
    def commit_without_a_network(self, who: int, key: str, content: bytes) -> None:
        bucket = self.bucket(who)
        reached, bucket._files = bucket._files, Unreachable()
        try:
            self.put(who, key, content)
        finally:
            bucket._files, bucket._rest = reached, None
        self.unsent[who].add(key)
        assert self.served == self.caches[who][key].content

    @rule(who=MACHINES, key=KEYS)
    def read(self, who: int, key: str) -> None:
        entry = self.stores[who].read("outputs", key)
        if key in self.caches[who]:
            if key in self.unsent[who]:
                self.unsent[who].discard(key)
                self.sent(who, key)
        elif key in self.shared:
            self.caches[who][key] = self.shared[key]
        expected = self.caches[who].get(key)
        assert (entry is None) == (expected is None)
        if entry is not None and expected is not None:
            assert (entry.path / "data").read_bytes() == expected.content

    @rule(who=MACHINES)
    def list(self, who: int) -> None:
        listed = {entry.key for entry in self.stores[who].entries("outputs")}
        assert self.shared.keys() | self.caches[who].keys() <= listed

    @precondition(lambda self: self.caches[0])
    @rule(data=st.data())
    def damage_a_cache(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.caches[0])))
        file = self.stores[0].root / "outputs" / key / data.draw(st.sampled_from(["data", "MANIFEST.json"]))
        file.write_bytes(flipped(file.read_bytes(), data)) if data.draw(st.booleans()) else os.truncate(
            file, 0
        )
        del self.caches[0][key]

    @precondition(lambda self: self.shared)
    @rule(data=st.data())
    def damage_what_is_shared(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.shared)))
        place, bucket = f"outputs/{key}/MANIFEST.json", self.bucket(0)
        manifest = bucket.get(place)
        assert manifest is not None
        version = self.shared.pop(key)
        how = data.draw(st.sampled_from(["no manifest", "manifest", "no data", "data"]))
        if how == "no manifest":
            bucket.remove(place)
            return
        if how == "manifest":
            bucket.put(place, flipped(manifest, data))
            self.broken[key] = None
            return
        inner = f"outputs/{key}/{hashlib.sha256(manifest).hexdigest()[:16]}/data"
        bucket.remove(inner) if how == "no data" else bucket.put(inner, flipped(version.content, data))
        self.broken[key] = version

    @rule(who=MACHINES)
    def start_anew_and_collect(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = self.opened(who)
        collect(self.stores[who], max_bytes=0)
        self.caches[who] = {
            key: version for key, version in self.caches[who].items() if key in self.unsent[who]
        }

    @rule(who=MACHINES, number=st.integers(1, 3))
    def look(self, who: int, number: int) -> None:
        look = Look(f"adapter{number}", "answers", "rules", frozenset({"row"}))
        expected = self.looks.setdefault(number, 1 + len(self.looks))
        assert self.stores[who].looks.earlier(look) == expected
        assert self.stores[who].looks.register(look) == expected

    @rule(who=MACHINES, key=KEYS)
    def refuse_what_must_not_be_shared(self, who: int, key: str) -> None:
        with pytest.raises(StoreError):
            self.stores[who].commit("adapters", key, lambda folder: write(folder, b"\x80\x04."))
        assert self.bucket(who).names("adapters") == []


def write(folder: Path, content: bytes) -> None:
    (folder / "data").write_bytes(content)


def flipped(content: bytes, data: Any) -> bytes:
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


SharedStoreMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestSharedStore = SharedStoreMachine.TestCase
