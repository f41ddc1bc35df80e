"""The matrix of versions: each environment made by pip, tried by benchmarks/versions.py, told in docs/versions.md.

`make versions` runs it all, one environment after the other; none stays on the disk. An older torch comes as its wheel
alone, without the gigabytes of CUDA libraries that it asks for: benchmarks/stub_cuda.py stands in for them. A Python
that is not here is a row that says so.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["newest", "pinned", "without_torch", "table"]
ROWS = Path("benchmarks/results/versions.jsonl")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
HELD = "torch==2.13.0"  # what the other pins are tried with, as in constraints.txt
LOWEST = {
    "torch": "torch==2.10.0",
    "transformers": "transformers==5.3.0",
    "peft": "peft==0.20.0",
    "trl": "trl==1.16.0",
    "bitsandbytes": "bitsandbytes==0.50.0",
    "pytest": "pytest==8.4.0",
}
# Floors that no column of the table is about; everything at its lowest at once.
OTHERS = (
    "numpy==2.0.0",
    "accelerate==1.10.1",
    "datasets==4.7.0",
    "pytest-html==4.1.0",
    "hypothesis==6.130.0",
)
PINS = {
    "held": (),
    "lowest": (*LOWEST.values(), *OTHERS),
    **{f"lowest {name}": (pin,) for name, pin in LOWEST.items()},
    "torch 2.11.0": ("torch==2.11.0",),
    "torch 2.12.1": ("torch==2.12.1",),
}
TOOLS = ("pytest-timeout", "scipy", "statsmodels")


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """Try what pip takes when nothing is pinned."""
    _try(session, f"newest, Python {session.python}", lambda: session.install(".[train]", *TOOLS))


@nox.session(python="3.11")
@nox.parametrize("name", list(PINS))
def pinned(session: nox.Session, name: str) -> None:
    """Try one environment with older releases."""
    _try(session, name, lambda: _install(session, PINS[name]))


@nox.session(python=PYTHONS)
def without_torch(session: nox.Session) -> None:
    """Try what needs no model."""
    _try(session, f"without torch, Python {session.python}", lambda: session.install(".", *TOOLS))


@nox.session(venv_backend="none")
def table(session: nox.Session) -> None:
    """Write the page from the rows."""
    wanted = [
        *(f"newest, Python {python}" for python in PYTHONS),
        *PINS,
        *(f"without torch, Python {python}" for python in PYTHONS),
    ]
    page = ("--table", "docs/versions.md", "--wanted", *wanted)
    session.run(sys.executable, "-P", "benchmarks/versions.py", "--rows", str(ROWS), *page, external=True)


def _install(session: nox.Session, pins: tuple[str, ...]) -> None:
    """Install everything with the torch that is held, and then the wheel of another one over it."""
    torch = [pin for pin in pins if pin.startswith("torch==")]
    session.install(".[train]", *TOOLS, HELD, *(pin for pin in pins if pin not in torch))
    if torch:
        session.install("--no-deps", *torch)
        session.run("python", "-P", "benchmarks/stub_cuda.py")


def _try(session: nox.Session, name: str, make: Callable[[], None]) -> None:
    """Make an environment, write what it shows as a row, and take it off the disk again."""
    row = ("python", "-P", "benchmarks/versions.py", "--rows", str(ROWS), "--name", name)
    try:
        try:
            make()
        except CommandFailed:
            session.run(*row, "--not-tried", "pip could not make this environment")
            raise
        session.run(*row)
    finally:
        shutil.rmtree(session.virtualenv.location, ignore_errors=True)
