"""Let a CUDA build of torch be imported where none of the CUDA libraries that it asks for is installed.

python -P benchmarks/stub_cuda.py        # in the environment of that torch; needs a C compiler, nm and readelf

A wheel of torch from PyPI asks for gigabytes of other wheels, and without them it cannot even be imported. Here one
small library takes the place of all that are missing: each of its functions answers "no device", so that this torch
computes on the CPU. Good for trying a release; nothing that touches a card can be tried with it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Final

NO_DEVICE: Final = 100  # cudaErrorNoDevice, and CUDA_ERROR_NO_DEVICE
_OF_CUDA: Final = re.compile(r"_*(cu|nv|nccl|NV|NCCL)")


def main() -> int:
    """Write the stand-in beside torch's own libraries, once for each name that is missing."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        print("there is no torch in this environment")
        return 1
    folder = Path(spec.origin).parent / "lib"
    libraries = sorted(folder.glob("*.so*"))
    here = present(folder)
    missing = sorted({name for library in libraries for name in needed(library)} - here)
    if missing:
        stand_in = folder / missing[0]
        build(wanted(libraries), here, stand_in)
        for name in missing[1:]:
            (folder / name).symlink_to(stand_in.name)
    print(f"stand-ins for {len(missing)} libraries: {', '.join(missing)}")
    return 0


def needed(library: Path) -> Iterator[str]:
    """Yield the libraries that one asks for."""
    said = _said("readelf", "-d", "-W", str(library))
    yield from re.findall(r"\(NEEDED\).*\[(.+)\]", said)


def present(folder: Path) -> set[str]:
    """Return the libraries that the loader finds: torch's own and the system's."""
    known = set(re.findall(r"^\s+(\S+) \(", _said("ldconfig", "-p"), re.MULTILINE))
    return known | {file.name for file in folder.iterdir()}


def wanted(libraries: list[Path]) -> dict[str, str]:
    """Return CUDA's functions that are called and that torch does not bring, each with its version, or "" for none."""
    called: dict[str, str] = {}
    brought: set[str] = set()
    for library in libraries:
        for line in _said("nm", "-D", str(library)).splitlines():
            *_, kind, name = line.split()
            function, _, symbol_version = name.partition("@")
            if kind in "Uw":
                called[function] = symbol_version.lstrip("@")
            else:
                brought.add(function)
    return {name: called[name] for name in sorted(called.keys() - brought) if _OF_CUDA.match(name)}


def build(functions: dict[str, str], here: set[str], file: Path) -> None:
    """Compile a library whose functions all give the same answer, each under the version that it is called by.

    The loader stops a process that asks a library for a version when the library knows of none. Most of
    CUDA's versions bear the name of their library; a function of a library that is here is left to that one.
    """
    ours = {name: owner for name, owner in functions.items() if owner not in here}
    owners = sorted(set(ours.values()) - {""})
    nodes = [
        f"{owner} {{ {' '.join(f'{name};' for name in ours if ours[name] == owner)} }};" for owner in owners
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, versions = Path(folder) / "stub.c", Path(folder) / "versions"
        source.write_text("".join(map(_function, ours)), encoding="utf-8")
        versions.write_text("\n".join(nodes), encoding="utf-8")
        script = [f"-Wl,--version-script={versions}"] if nodes else []
        _said("cc", "-w", "-fno-builtin", "-shared", "-fPIC", *script, "-o", str(file), str(source))


def _function(name: str) -> str:
    """Write one function in C: what says an error in words gives words, everything else the number of the error."""
    if name.endswith(("String", "Name")):
        return f'const char *{name}(void) {{ return "no device"; }}\n'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}\n"


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
