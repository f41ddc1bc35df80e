"""Build llama.cpp's server and quantiser from the source package of the index, once: `make llama`.

python -m benchmarks.llama_cpp [FOLDER]      # build/llama.cpp when none is named; needs cmake and a C++ compiler

llama-cpp-python carries llama.cpp's whole source, so a pinned release of it pins the converter too. The folder then
holds what FINETUNE_LLAMA_CPP names: the two programs in bin/, the converters beside them. On two hyperthreads of one
core the build took 7 minutes; one that is there is left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "llama-cpp-python==0.3.36"
FOLDER: Final = Path(__file__).parents[1] / "build" / "llama.cpp"
PROGRAMS: Final = ("llama-server", "llama-quantize")
CONVERTERS: Final = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "conversion", "gguf-py")
FLAGS: Final = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF"),
)


def main(folder: Path = FOLDER) -> int:
    """Fetch, unpack, build and copy; the copy is put in place in one step."""
    if all((folder / "bin" / program).is_file() for program in PROGRAMS):
        print(f"llama.cpp is there: {folder}")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="llama-") as name:
        work = Path(name)
        source = unpacked(work)
        run("cmake", "-S", source, "-B", work / "build", *FLAGS)
        at_once = str(os.cpu_count() or 1)  # make without a number starts all of them, and fills the memory
        run("cmake", "--build", work / "build", "--parallel", at_once, "--target", *PROGRAMS)
        made = work / "made"
        (made / "bin").mkdir(parents=True)
        for program in PROGRAMS:
            shutil.copy2(work / "build" / "bin" / program, made / "bin")
        for part in CONVERTERS:
            copy = shutil.copytree if (source / part).is_dir() else shutil.copy2
            copy(source / part, made / part)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    print(f"export FINETUNE_LLAMA_CPP={folder}")
    return 0


def unpacked(work: Path) -> Path:
    """Return the folder of llama.cpp's source, out of the package's archive."""
    run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", work, PACKAGE)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(work / "source", filter="data")
    (source,) = (work / "source").glob("*/vendor/llama.cpp")
    return source


def run(*words: str | Path) -> None:
    """Run a command and show what it says; a failure ends the script."""
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
