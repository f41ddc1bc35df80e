"""Install the wheel and the source distribution in empty environments, and each extra alone.

    python -m benchmarks.installs [EXTRA ...]

`make dist` builds both and runs this. In each environment `pip check` must find nothing, and a new project must be
collected and checked by plain pytest. Needs the package index; without names every extra but `dev` is tried.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"
MINUTES: Final = 30


class Outcome(NamedTuple):
    """One environment: what was installed, how many packages that brought, what failed."""

    name: str
    packages: int
    seconds: float
    failure: str | None


def main(extras: list[str]) -> int:
    """Print a line for each environment; 1 where anything failed."""
    wheel, source = newest("*.whl"), newest("*.tar.gz")
    outcomes = [tried("wheel", str(wheel)), tried("sdist", str(source))]
    outcomes += [tried(f"wheel[{extra}]", f"{wheel}[{extra}]") for extra in extras or all_extras()]
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def newest(pattern: str) -> Path:
    """Return the newest file of that kind which was built."""
    return max(DIST.glob(pattern), key=lambda file: file.stat().st_mtime)


def all_extras() -> list[str]:
    """Return the extras that users install; `dev` is for this repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [extra for extra in project["optional-dependencies"] if extra != "dev"]


def tried(name: str, requirement: str) -> Outcome:
    """Install into a new environment, use what was installed, and tell."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "env", with_pip=True)
        failure = next(failures(place, requirement), None)
        listed = said(place, "pip", "list", "--format=freeze").stdout.splitlines()
    outcome = Outcome(name, len(listed), time.monotonic() - began, failure)
    state = "ok" if failure is None else f"FAILED\n{failure}"
    print(f"{name:18} {outcome.packages:4} packages {outcome.seconds:6.0f} s  {state}", flush=True)
    return outcome


def failures(place: Path, requirement: str) -> Iterator[str]:
    """Yield what goes wrong, the first first; each step is a module of the new environment."""
    steps = (
        ("pip", "--quiet", "install", "-c", str(ROOT / "constraints.txt"), requirement),
        ("pip", "check"),
        ("pytest_finetune", "init", "project"),
        ("pytest", "-q", "-p", "no:cacheprovider", "project"),
    )
    for step in steps:
        done = said(place, *step)
        # A new project asks its owner questions: its tests may fail, but they must run.
        accepted = (0, 1) if step[0] == "pytest" else (0,)
        if done.returncode not in accepted:
            yield f"{' '.join(step)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def said(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the new environment, beside nothing of this repository."""
    python = place / "env" / "bin" / "python"
    return subprocess.run(
        [python, "-P", "-m", *words], cwd=place, capture_output=True, text=True, timeout=MINUTES * 60
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
