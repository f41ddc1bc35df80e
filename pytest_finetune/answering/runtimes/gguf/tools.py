"""llama.cpp's own programs: where they are, which release they have, and how one of them is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.fingerprint import digest, sha256_of

FOLDER: Final = "FINETUNE_LLAMA_CPP"
"""The environment variable that names a folder of llama.cpp: its repository, or what `make llama` has built."""

SERVER: Final = "llama-server"
QUANTIZE: Final = "llama-quantize"
CONVERTER: Final = "convert_hf_to_gguf.py"
LORA_CONVERTER: Final = "convert_lora_to_gguf.py"

_PACKAGES: Final = ("gguf", "sentencepiece")
_STARTER: Final = Path(__file__).parent / "converting.py"
_BINARIES: Final = ("", "bin", "build/bin")
_SHOWN_LINES: Final = 12
_TRIED_S: Final = 60
_VERSION: Final = re.compile(r"version: *(.+)")


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that make a GGUF file and serve it; `converter` stands beside the one for adapters."""

    server: Path
    quantize: Path
    converter: Path

    @property
    def release(self) -> str:
        """The release as the server tells it; short digests of its file where it tells none."""
        return release_of(self.server)

    @property
    def converter_digest(self) -> str:
        """One digest of all that converts: another text of it may write another file."""
        return _texts_digest(self.converter.parent)

    def knows(self, architecture: str) -> bool:
        """Tell whether the converter has a line for an architecture of transformers."""
        root = self.converter.parent
        texts = (self.converter, root / "conversion" / "__init__.py")
        return any(f'"{architecture}"' in text.read_text("utf-8") for text in texts if text.is_file())


def find_server() -> Path:
    """Find what serves a GGUF file, which is all that a finished one needs. Raises AnsweringError."""
    server = _found(SERVER)
    if server is None:
        raise _missing([SERVER])
    return server


def find_tools() -> Tools:
    """Find llama.cpp in the folder that the environment names, else on PATH; AnsweringError names what is missing."""
    server, quantize = _found(SERVER), _found(QUANTIZE)
    converter = _found(CONVERTER, server)
    if server is None or quantize is None or converter is None:
        places = {SERVER: server, QUANTIZE: quantize, CONVERTER: converter}
        raise _missing([name for name, path in places.items() if path is None])
    lost = [package for package in _PACKAGES if find_spec(package) is None]
    if lost:
        raise AnsweringError(
            f"a GGUF runtime needs the {' and '.join(lost)} of Python, which llama.cpp's converter imports\n"
            "  pip install 'pytest-finetune[gguf]'"
        )
    return Tools(server, quantize, converter)


def try_tools(tools: Tools) -> None:
    """Start both programs once, for one that is there may not run; AnsweringError tells what it said."""
    for program, word in ((tools.server, "--version"), (tools.quantize, "--help")):
        told = _said(program, word)
        # Releases of llama-quantize show their usage with an exit status of 1.
        if told.returncode and "usage" not in told.stdout:
            last = (told.stdout.strip().splitlines() or ["nothing"])[-1].strip()
            raise AnsweringError(
                f"{program.name} of llama.cpp does not run: `{word}` ended with exit status {told.returncode} "
                f"and said {last[:80]!r}\n"
                f"  build it again, or name the folder of one that runs: export {FOLDER}=/path/to/llama.cpp"
            )


def _said(program: Path, word: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, word],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_TRIED_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess([program, word], 126, str(error))


def _missing(names: Sequence[str]) -> AnsweringError:
    """Say where was looked, and what brings llama.cpp."""
    named = os.environ.get(FOLDER)
    if named and not Path(named).expanduser().is_dir():
        where = f"{FOLDER} names {named}, where no folder is"
    else:
        where = f"{', '.join(names)} cannot be found " + (
            f"in {FOLDER}={named}" if named else f"on PATH, and {FOLDER} names no folder"
        )
    return AnsweringError(
        f"a GGUF runtime needs llama.cpp: {where}\n"
        "  brew install llama.cpp, or build it (`cmake -B build && cmake --build build --target "
        f"{SERVER} {QUANTIZE}` in its repository) and name that folder: export {FOLDER}=/path/to/llama.cpp"
    )


def _found(name: str, beside: Path | None = None) -> Path | None:
    named = os.environ.get(FOLDER)
    if named:
        places = [Path(named).expanduser() / folder / name for folder in _BINARIES]
        return next((place.absolute() for place in places if place.is_file()), None)
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path).resolve()
    around = beside.parents[:3] if beside is not None else ()  # a build lies below its repository
    return next((folder / name for folder in around if (folder / name).is_file()), None)


@cache
def release_of(server: Path) -> str:
    """Return the release as the server tells it; a short digest of its file where it tells none."""
    found = _VERSION.search(_said(server, "--version").stdout)
    return found[1].strip() if found else f"sha256 {sha256_of(server)[:12]}"


@cache
def _texts_digest(root: Path) -> str:
    return digest({str(text.relative_to(root)): sha256_of(text) for text in _texts(root)})


def _texts(root: Path) -> Iterator[Path]:
    for pattern in ("convert_*_to_gguf.py", "conversion/*.py", "gguf-py/gguf/*.py"):
        yield from sorted(root.glob(pattern))


def convert(script: Path, pre: str | None, words: Sequence[str | Path]) -> None:
    """Run a converter of llama.cpp in a process of its own, without the network.

    `pre` is what the tokenizer's way to split a text is called where the converter does not know the tokenizer.
    Raises AnsweringError with the end of what it said.
    """
    run_tool(f"{script.name} of llama.cpp", [sys.executable, "-I", _STARTER, script, pre or "", *words])


def run_tool(what: str, command: Sequence[str | Path], **told: str) -> None:
    """Run a program until it ends, with these words in its environment.

    Raises AnsweringError with the end of what it said when that is not well; `what` is what the message calls it.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    kept = {word: value for word, value in os.environ.items() if not word.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**kept, **quiet, **told},
            check=False,
        )
    except OSError as error:
        raise AnsweringError(f"{what} cannot be started: {error.strerror}: {command[0]}") from None
    if done.returncode:
        lines = done.stdout.decode("utf-8", errors="replace").splitlines()[-_SHOWN_LINES:] or ["(nothing)"]
        shown = "\n".join(f"    {line[:200]}" for line in lines)
        raise AnsweringError(
            f"{what} has failed (exit status {done.returncode}): {lines[-1].strip()[:120]}\n"
            f"  it said last:\n{shown}"
        )
