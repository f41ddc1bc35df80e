"""The store against a model of it: whatever happens in whatever order, a wrong entry is never served."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_finetune.store import Store, StoreError, collect

KEYS = st.sampled_from(["a", "b", "c"])
WRITERS = st.integers(0, 2)
CONTENTS = st.binary(min_size=1, max_size=40)


class StoreMachine(RuleBasedStateMachine):
    """Three processes (three Store objects) on one root, and a model: key -> bytes of its only good entry."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.stores = [Store(self.root / "store") for _ in range(3)]
        self.good: dict[str, bytes] = {}
        self.pinned: set[str] = set()
        self.held: list[set[str]] = [set(), set(), set()]

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        shutil.rmtree(getattr(self, "root", "nowhere"), ignore_errors=True)

    @rule(who=WRITERS, key=KEYS, content=CONTENTS)
    def commit(self, who: int, key: str, content: bytes) -> None:
        entry = self.stores[who].commit(
            "outputs", key, lambda folder: write(folder, content), {"n": len(content)}
        )
        expected = self.good.setdefault(key, content)
        self.held[who].add(key)
        assert (entry.path / "data").read_bytes() == expected
        assert entry.about == {"n": len(expected)}

    @rule(who=WRITERS, key=KEYS, content=CONTENTS)
    def replace(self, who: int, key: str, content: bytes) -> None:
        about = {"n": len(content)}
        entry = self.stores[who].commit(
            "outputs", key, lambda folder: write(folder, content), about, replacing=True
        )
        self.good[key] = content
        for held in self.held:  # whoever has read the old one holds what is gone
            held.discard(key)
        self.held[who].add(key)
        assert (entry.path / "data").read_bytes() == content

    @rule(first=WRITERS, second=WRITERS, key=KEYS, one=CONTENTS, two=CONTENTS)
    def commit_while_another_commits(self, first: int, second: int, key: str, one: bytes, two: bytes) -> None:
        """The second writer finishes while the first is still writing: the second was first."""

        def write_slowly(folder: Path) -> None:
            write(folder, one)
            self.commit(second, key, two)

        entry = self.stores[first].commit("outputs", key, write_slowly)
        self.held[first].add(key)
        assert (entry.path / "data").read_bytes() == self.good[key]

    @rule(who=WRITERS, key=KEYS)
    def read(self, who: int, key: str) -> None:
        entry = self.stores[who].read("outputs", key)
        assert (entry is not None) == (key in self.good)
        if entry is not None:
            self.held[who].add(key)
            assert (entry.path / "data").read_bytes() == self.good[key]

    @rule(who=WRITERS, key=KEYS, content=CONTENTS)
    def fail_while_writing(self, who: int, key: str, content: bytes) -> None:
        def write_half(folder: Path) -> None:
            write(folder, content)
            raise RuntimeError("stopped")

        with pytest.raises(RuntimeError):
            self.stores[who].commit("outputs", key, write_half)

    @rule(key=KEYS, content=CONTENTS, whole=st.booleans())
    def leave_what_a_killed_writer_leaves(self, key: str, content: bytes, whole: bool) -> None:
        """A folder under a temporary name, with or without all of its files, of a process that is gone."""
        folder = self.root / "store" / f"tmp-elsewhere-1-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, content)
        if whole:
            (folder / "MANIFEST.json").write_text("{}")

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.good)))
        folder = self.root / "store" / "outputs" / key
        how = data.draw(st.sampled_from(["flip", "cut", "remove", "add", "link", "unlist"]))
        file = folder / data.draw(st.sampled_from(["data", "MANIFEST.json"]))
        if how == "flip":
            content = bytearray(file.read_bytes())
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
        elif how == "cut":
            os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1)))
        elif how == "remove":
            file.unlink()
        elif how == "add":
            (folder / "more").write_text("")
        elif how == "link":
            shutil.copy(file, self.root / "outside")
            file.unlink()
            file.symlink_to(self.root / "outside")
        else:
            shutil.rmtree(folder)
            folder.mkdir()
        del self.good[key]
        for held in self.held:
            held.discard(key)

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def pin(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.good)))
        self.stores[0].notes.pin("outputs", key, "promoted")
        self.pinned.add(key)

    @rule(key=KEYS)
    def unpin(self, key: str) -> None:
        self.stores[0].notes.unpin("outputs", key)
        self.pinned.discard(key)

    @rule(who=WRITERS)
    def end_a_process(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = Store(self.root / "store")
        self.held[who] = set()

    @rule(who=WRITERS, dry_run=st.booleans())
    def collect_everything_unused(self, who: int, dry_run: bool) -> None:
        collected = collect(self.stores[who], max_bytes=0, dry_run=dry_run)
        safe = self.pinned | set().union(*self.held)
        removed = {removal.place.removeprefix("outputs/") for removal in collected.removed}
        assert removed & set(self.good) == set(self.good) - safe
        if not dry_run:
            self.good = {key: content for key, content in self.good.items() if key in safe}

    @rule(who=WRITERS, key=KEYS)
    def refuse_what_must_not_be_stored(self, who: int, key: str) -> None:
        with pytest.raises(StoreError):
            self.stores[who].commit("adapters", key, lambda folder: write(folder, b"\x80\x04."))
        assert self.stores[who].read("adapters", key) is None

    @invariant()
    def no_writer_left_anything(self) -> None:
        if hasattr(self, "root"):
            names = {path.name for path in (self.root / "store").glob("*tmp-*")}
            assert {name for name in names if "elsewhere" not in name} == set()


def write(folder: Path, content: bytes) -> None:
    (folder / "data").write_bytes(content)


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase
