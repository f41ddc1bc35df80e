"""What the plugin costs a project that has nothing of ours: its modules, and its milliseconds.

    python -P benchmarks/start_up.py [--pairs N] [--limit-ms MILLISECONDS]

A session with one plain test runs with the plugin and with `-p no:finetune`, in turns and without other plugins. This
process loads what a bare pytest loads and forks each session, so that the time of Python's and pytest's own start, many
times what is measured, is in neither. Prints the median of the differences in processor time with the interval that
holds it in 95 of 100 measurements, the difference between the fastest tenths, and the modules. Exits with 1 when the
median is over the limit or there are more than three modules.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest

TEST = """\
import pathlib, sys
def test_plain():
    pathlib.Path("modules.txt").write_text(" ".join(sorted(sys.modules)))
"""


def session_ms(*words: str) -> float:
    """Run the plain session in a fork of this process; return its processor milliseconds."""
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os._exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir=.", *words]))
    _, status, used = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return 1000 * (used.ru_utime + used.ru_stime)


def modules(*words: str) -> list[str]:
    """Return what is loaded when the plain test runs."""
    session_ms(*words)
    return Path("modules.txt").read_text(encoding="utf-8").split()


def pairs_of(count: int, ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[float, float]]:
    """Return the milliseconds of `count` sessions with the plugin and without it, each first as often as the other."""
    found = []
    for number in range(count):
        if number % 2:
            without = session_ms(*theirs)
            found.append((session_ms(*ours), without))
        else:
            found.append((session_ms(*ours), session_ms(*theirs)))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the values of the sorted list between which the median lies, at 95%."""
    ordered, reach = sorted(values), 0.98 * math.sqrt(len(values))
    middle = len(values) / 2
    return ordered[max(0, math.floor(middle - reach))], ordered[
        min(len(values) - 1, math.ceil(middle + reach))
    ]


def fastest_tenth(values: Sequence[float]) -> float:
    """Return the mean of the smallest tenth."""
    return statistics.mean(sorted(values)[: max(1, len(values) // 10)])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--limit-ms", type=float, default=5.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        sys.pycache_prefix, sys.dont_write_bytecode = str(Path(name, "compiled")), False
        Path("test_plain.py").write_text(TEST, encoding="utf-8")
        others = {one.name for one in entry_points(group="pytest11")} - {"finetune"}
        with_us = [f"-pno:{name}" for name in sorted(others)]
        without = [*with_us, "-pno:finetune"]
        session_ms(*without)
        bare = set(modules(*without)) - {"test_plain"}
        for module in sorted(bare - sys.modules.keys()):
            importlib.import_module(module)
        added = sorted(set(modules(*with_us)) - bare - {"test_plain"})
        pairs = pairs_of(args.pairs, with_us, without)
    more = [ours - theirs for ours, theirs in pairs]
    low, high = interval(more)
    quiet = fastest_tenth([ours for ours, _ in pairs]) - fastest_tenth([theirs for _, theirs in pairs])
    base = statistics.median(theirs for _, theirs in pairs)
    print(f"a plain session without the plugin  {base:7.2f} ms (from a fork; {args.pairs} pairs)")
    print(
        f"the plugin adds                     {statistics.median(more):+7.2f} ms (95%: {low:+.2f} to {high:+.2f})"
    )
    print(
        f"between the fastest tenths          {quiet:+7.2f} ms (where other programs took the fewest turns)"
    )
    print(f"modules                             {len(added):7}    {', '.join(added)}")
    ours = [name for name in added if name.startswith("pytest_finetune")]
    return int(statistics.median(more) > args.limit_ms or len(ours) > 3)


if __name__ == "__main__":
    sys.exit(main())
