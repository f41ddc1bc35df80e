"""What the plugin costs a project that has nothing of ours: its modules, and its milliseconds.

    python -P benchmarks/start_up.py [--pairs N] [--limit-ms MILLISECONDS]

A session with one plain test runs with the plugin and with `-p no:finetune`, in turns, each in a process of its own and
without other plugins, whose start would only add noise. Prints the median of the differences in processor time with its
quartiles, the difference between the fastest of each, and the modules. Exits with 1 when the median is over the limit
or there are more than three modules. Meant for a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

TEST = """\
import pathlib, sys
def test_plain():
    names = [name for name in sys.modules if name.startswith("pytest_finetune")]
    pathlib.Path("modules.txt").write_text(" ".join(sorted(names)))
"""


def session_ms(folder: Path, *words: str) -> float:
    """Run the plain session; return its processor milliseconds."""
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", *words]
    compiled = {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.Popen(call, cwd=folder, env=os.environ | compiled, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return 1000 * (used.ru_utime + used.ru_stime)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--limit-ms", type=float, default=5.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_plain.py").write_text(TEST, encoding="utf-8")
        others = {one.name for one in entry_points(group="pytest11")} - {"finetune"}
        with_us = [f"-pno:{name}" for name in sorted(others)]
        without = [*with_us, "-pno:finetune"]
        session_ms(folder, *without)
        session_ms(folder, *with_us)
        modules = (folder / "modules.txt").read_text(encoding="utf-8").split()
        pairs = [(session_ms(folder, *with_us), session_ms(folder, *without)) for _ in range(args.pairs)]
    more = [ours - theirs for ours, theirs in pairs]
    low, median, high = statistics.quantiles(more, n=4)
    print(f"pytest without the plugin  {statistics.median(pair[1] for pair in pairs):7.1f} ms")
    print(
        f"the plugin adds            {median:+7.1f} ms (quartiles {low:+.1f} and {high:+.1f}, {args.pairs} pairs)"
    )
    fastest = min(ours for ours, _ in pairs) - min(theirs for _, theirs in pairs)
    print(f"between the fastest of each{fastest:+7.1f} ms (what is left where other programs take no turn)")
    print(f"modules                    {len(modules):5}    {', '.join(modules)}")
    return int(median > args.limit_ms or len(modules) > 3)


if __name__ == "__main__":
    sys.exit(main())
