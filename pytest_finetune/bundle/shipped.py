"""The GGUF file of a bundle: where the decision was made on the answers of one, that very file is what is shipped.

A file that answered in a further runtime is named in the record alone, with its digest: a bundle holds what was decided
on, and nothing twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.answering.arm_plans import TUNED
from pytest_finetune.bundle.format import MANIFEST, BundleError
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle

FOLDER: Final = "gguf"
MODEL: Final = f"{FOLDER}/model.gguf"
ADAPTER: Final = f"{FOLDER}/adapter.gguf"
MODELFILE: Final = f"{FOLDER}/Modelfile"
_TOLD: Final = ("quantization", "adapter", "sha256", "converter", "server")


def judged_file(experiment: Json) -> Json | None:
    """Return what the record says of the file that gave the answers of the decision; None where no file did."""
    found: Json | None = (experiment["arms"].get(TUNED) or {}).get("gguf")
    return found


def told(experiment: Json) -> dict[str, Any]:
    """Return what manifest and statement say of the file; nothing where there is none."""
    found = judged_file(experiment)
    return {} if found is None else {"gguf": {"file": MODEL, **{name: found[name] for name in _TOLD}}}


def _digests(found: Json) -> dict[str, str]:
    """Return the digest of each file that answered, as the record tells it, by its name in the bundle."""
    added = found.get("adapter_file")
    return {MODEL: found["sha256"], **({ADAPTER: added["sha256"]} if added else {})}


def copy_gguf(part: Path, experiment: Json, files: Mapping[str, Path]) -> None:
    """Copy the files that answered, by their names, and write the Modelfile; BundleError for any other file.

    Stored answers were served without reading these files, so each copy is read here, byte for byte.
    """
    found = judged_file(experiment)
    if found is None:
        return
    (part / FOLDER).mkdir()
    for name, file in files.items():
        shutil.copyfile(file, part / FOLDER / name)
    if "modelfile" in found:
        (part / MODELFILE).write_bytes(found["modelfile"].encode("utf-8"))
    for place, digest in _digests(found).items():
        if not (part / place).is_file() or sha256_of(part / place, links=False) != digest:
            raise BundleError(
                f"{Path(place).name} of the store is not the file that was judged ({digest[:12]}): run again"
            )


def shipped_problems(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Yield where the GGUF file, its Modelfile and the manifest are not what the record says was judged."""
    found, files = judged_file(bundle.experiment), bundle.manifest.files
    if bundle.manifest.tree.get("gguf") != told(bundle.experiment).get("gguf"):
        yield MANIFEST, "what it says of the GGUF file is not what the record says"
    if found is None:
        return
    for place, digest in _digests(found).items():
        if place not in files:
            yield place, "is missing: the decision was made on its answers"
        elif files[place] != digest:
            yield place, f"is not the file that was judged ({digest[:12]} by the record)"
    if "modelfile" in found:
        written = bundle.folder / MODELFILE
        if MODELFILE not in files or written.read_bytes() != found["modelfile"].encode("utf-8"):
            yield MODELFILE, "is not the one that was judged"
