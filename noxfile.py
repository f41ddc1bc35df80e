"""The matrix of versions: each environment made by pip, tried by benchmarks/versions.py, told in docs/versions.md.

`make versions` runs it all. Where the network has an index of CPU builds of torch, name it in PIP_EXTRA_INDEX_URL.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["pinned", "without_torch", "table"]
ROWS = Path("build/versions.jsonl")
LOWEST = {
    "torch": "torch==2.10.0",
    "transformers": "transformers==5.3.0",
    "peft": "peft==0.20.0",
    "trl": "trl==1.16.0",
    "bitsandbytes": "bitsandbytes==0.50.0",
    "pytest": "pytest==8.4.0",
}
# Floors that no row of the table is about; everything at its lowest at once.
OTHERS = (
    "numpy==2.0.0",
    "accelerate==1.10.1",
    "datasets==4.7.0",
    "pytest-html==4.1.0",
    "hypothesis==6.130.0",
)
PINS = {
    "newest": (),
    "lowest": (*LOWEST.values(), *OTHERS),
    **{f"lowest {name}": (pin,) for name, pin in LOWEST.items()},
}


@nox.session(python="3.11")
@nox.parametrize("name", list(PINS))
def pinned(session: nox.Session, name: str) -> None:
    """Try one environment that trains."""
    session.install(".[train]", "pytest-timeout", "scipy", "statsmodels", *PINS[name])
    _row(session, name)


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def without_torch(session: nox.Session) -> None:
    """Try what needs no model on each Python."""
    session.install(".", "pytest-timeout", "scipy", "statsmodels")
    _row(session, f"without torch, {session.python}")


@nox.session(venv_backend="none")
def table(session: nox.Session) -> None:
    """Write the page from the rows."""
    session.run("python3", "benchmarks/versions.py", "--rows", str(ROWS), "--table", "docs/versions.md")


def _row(session: nox.Session, name: str) -> None:
    ROWS.parent.mkdir(exist_ok=True)
    session.run("python", "benchmarks/versions.py", "--name", name, "--rows", str(ROWS))
