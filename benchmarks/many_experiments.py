"""Count what one experiment costs in a store that holds 10, 100 and 1,000 of them, in a folder and behind a URL.

    python -P benchmarks/many_experiments.py [--sizes 10,100,1000] [--rows 100] [--check]

Each made-up experiment has held-out rows of its own, a finished job, an adapter, answers, a run and a look. Counted are
the files opened and folders listed (Python's audit events) or the requests that S3 would see (a page of a listing holds
1,000 names), and processor time. No torch is imported. With `--check`, exits with 1 where a count grows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.implementations.memory import MemoryFileSystem

from pytest_finetune.executors.protocol import Resources, Seen, Submission
from pytest_finetune.executors.waiting import Job
from pytest_finetune.fingerprint import digest
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.summary import write_run
from pytest_finetune.store import Look, Store, open_store

URL = "memory://many/store"
RULES = {"label": "0" * 64, "strict_json": "1" * 64}
PAGE = 1000
EMPTY = "decide, on an empty machine"
EACH = 5
"""How many experiments are measured; the figures are means."""


class Counted(NamedTuple):
    """What a piece of work took."""

    operations: float
    seconds: float


class Counter:
    """Counts while it is asked to: audit events of this process, and the requests of a file system in memory."""

    def __init__(self) -> None:
        self.operations, self._on, self._requests = 0, False, False
        sys.addaudithook(self._heard)
        for name in ("cat_file", "pipe_file", "put_file", "get_file", "rm_file", "ls"):
            self._count(name)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._on and not self._requests and event in {"open", "os.listdir", "os.scandir"}:
            self.operations += 1

    def _count(self, name: str) -> None:
        real = getattr(MemoryFileSystem, name)

        def counted(files: MemoryFileSystem, *arguments: Any, **named: Any) -> Any:
            try:
                found = real(files, *arguments, **named)
            except FileNotFoundError:
                self.operations += self._requests
                raise
            pages = (len(found) - 1) // PAGE if name == "ls" and found else 0
            self.operations += (1 + pages) * self._requests
            return found

        setattr(MemoryFileSystem, name, counted)

    @contextmanager
    def counting(self, found: list[Counted], share: int, *, requests: bool) -> Iterator[None]:
        """Count what the block takes, and add its share for one of `share` experiments."""
        self.operations, self._on, self._requests = 0, True, requests
        began = time.process_time()
        yield
        seconds = time.process_time() - began
        self._on = self._requests = False
        found.append(Counted(self.operations / share, seconds / share))


class Gone:
    """An executor whose jobs are over."""

    name = "command"

    def look(self, step: Submission, ticket: Mapping[str, Any]) -> Seen:
        """Say that a job has ended."""
        return Seen("ended", 0)


def key(number: int, kind: str) -> str:
    """Return the key of one thing of an experiment."""
    return digest([number, kind])


def rows_of(number: int, rows: int) -> frozenset[str]:
    """Return the held-out rows of an experiment."""
    return frozenset(digest([number, row]) for row in range(rows))


def look_of(number: int, rows: int) -> Look:
    """Return the look of an experiment at its rows."""
    held_out = rows_of(number, rows)
    return Look(key(number, "adapter"), key(number, "answers"), digest(RULES), held_out, asked=held_out)


def add(store: Store, number: int, rows: int) -> None:
    """Store an experiment as its sessions and jobs would have left it."""
    job = key(number, "adapter")
    store.jobs.send(job, 1, {"executor": "command", "host": "there"})
    store.jobs.know(job, 1, {"pid": 1, "host": "there"})
    store.commit("outputs", key(number, "answers"), lambda to: _write(to / "answers.jsonl", rows * 200))
    store.jobs.tell(job, 1, {"state": "done", "kind": "outputs", "made": key(number, "answers"), "beat": 3})
    name = f"experiment-{number}"
    held_out = [{"id": f"r{at}", "digest": row} for at, row in enumerate(sorted(rows_of(number, rows)))]
    experiment = {"name": name, "key": job, "held_out": held_out, "rules": {}, "config": {}}
    record = {"created": f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00"}
    about = {"experiment": name, "key": job, "created": record["created"]}
    store.commit(
        "records",
        key(number, "run"),
        lambda to: write_run(to, record, RecordedExperiment.of(experiment)),
        about,
    )
    store.looks.register(look_of(number, rows), RULES, name)
    store.close()


def _write(file: Path, size: int) -> None:
    file.write_bytes(b"x" * size)


def listed(store: Store, size: int) -> None:
    """List all runs."""
    assert len(store.entries("records")) == size


def attached(store: Store, number: int) -> None:
    """Find the job of an experiment done, and read what it made."""
    step = Submission(key(number, "adapter"), "", "a training", Resources(), Path(), Path())

    def kept(told: Mapping[str, Any]) -> bool:
        return store.read(str(told["kind"]), str(told["made"])) is not None

    def never() -> Mapping[str, Any]:
        raise AssertionError("nothing is sent twice")

    job = Job(step, Gone(), store.jobs, lambda _: None, lambda _: None, lambda _: None, kept)  # type: ignore[arg-type]
    assert job.result(never)["state"] == "done"


def decided(store: Store, number: int, rows: int) -> None:
    """Ask the store whatever a session asks it from the data contract to its end."""
    look, book = look_of(number, rows), store.looks
    book.judged()
    book.next(look.rows, look.asked)
    book.changed_after_look(RULES, look.rows, look.asked)
    book.register(look, RULES, f"experiment-{number}")
    assert book.earlier(look) == 1
    book.register(look, RULES, f"experiment-{number}")
    runs = store.runs("experiment", f"experiment-{number}")
    assert [store.read("records", run) is not None for run in runs] == [True]


def measured(
    opened: Callable[[str], Store], size: int, rows: int, counter: Counter, url: bool
) -> dict[str, Counted]:
    """Return what each piece of work takes in a store of `size` experiments, for one of them."""
    chosen = [size * at // EACH for at in range(EACH)]
    found: dict[str, list[Counted]] = {}

    def count(name: str, share: int, work: Callable[[], object]) -> None:
        with counter.counting(found.setdefault(name, []), share, requests=url):
            work()

    count("list all runs, for each", size, lambda: listed(opened("caller"), size))
    for number in chosen:
        count("attach", 1, partial(attached, opened("caller"), number))
        count("decide, a session of its own", 1, partial(decided, opened("caller"), number, rows))
    one = opened("caller")
    for number in chosen:
        count("decide, one of a session", 1, partial(decided, one, number, rows))
    if url:
        count(EMPTY, 1, lambda: decided(opened("empty"), chosen[-1], rows))
    return {name: _mean(counts[1:] or counts) for name, counts in found.items()}


def _mean(counts: Sequence[Counted]) -> Counted:
    operations, seconds = zip(*counts, strict=True)
    return Counted(sum(operations) / len(counts), sum(seconds) / len(counts))


def main() -> int:
    """Print the figures, and tell whether they stay."""
    parser = argparse.ArgumentParser(description="What an experiment costs among many.")
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    sizes, counter = [int(word) for word in chosen.sizes.split(",")], Counter()
    grows: list[str] = []
    for where in ("folder", "URL"):
        with tempfile.TemporaryDirectory() as folder:
            url = where == "URL"

            def opened(machine: str, place: Path = Path(folder), url: bool = url) -> Store:
                return open_store(URL if url else str(place), place / machine)

            writer, there = opened("writer"), 0
            results = {}
            for size in sizes:
                for number in range(there, size):
                    add(writer, number, chosen.rows)
                there = size
                results[size] = measured(opened, size, chosen.rows, counter, url)
        _print(where, results)
        grows += _growing(results)
    assert not {"torch", "transformers"} & sys.modules.keys()
    return int(chosen.check and bool(grows))


def _growing(results: Mapping[int, Mapping[str, Counted]]) -> list[str]:
    """Say which counts are not those of the smallest store, but for further pages of a listing."""
    first, last = results[min(results)], results[max(results)]
    said = [name for name in last if name != EMPTY and last[name].operations > 2 * first[name].operations]
    if said:
        print(f"grows: {', '.join(said)}")
    return said


def _print(where: str, results: Mapping[int, Mapping[str, Counted]]) -> None:
    unit = "requests" if where == "URL" else "files and folders opened"
    print(f"\n{where}: {unit}, and milliseconds of processor time, for one experiment in a store of")
    print(f"{'':30}" + "".join(f"{size:>18,}" for size in results))
    for name in next(iter(results.values())):
        cells = [
            f"{one[name].operations:8.1f} {one[name].seconds * 1000:6.1f} ms" for one in results.values()
        ]
        print(f"{name:30}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
