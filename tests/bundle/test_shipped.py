"""The files that answered are copied into a bundle, and each copy is held against the record's digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.bundle.format import BundleError
from pytest_finetune.bundle.shipped import copy_gguf

FILES = {"model.gguf": b"GGUF of the base", "adapter.gguf": b"GGUF of the adapter"}


def judged() -> dict[str, Any]:
    """Return an experiment's record in which a base and an adapter beside it have answered."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    told = {"sha256": digests["model.gguf"], "adapter_file": {"sha256": digests["adapter.gguf"]}}
    return {"arms": {"tuned": {"gguf": told}}}


@pytest.mark.parametrize("flipped", [None, *FILES])
def test_a_byte_that_flipped_while_stored_answers_served_is_noticed(
    tmp_path: Path, flipped: str | None
) -> None:
    part, files = tmp_path / "part", {name: tmp_path / name for name in FILES}
    part.mkdir()
    for name, content in FILES.items():
        files[name].write_bytes(bytes([content[0] ^ 1]) + content[1:] if name == flipped else content)
    if flipped is None:
        copy_gguf(part, judged(), files)
        assert {file.name for file in (part / "gguf").iterdir()} == set(FILES)
        return
    with pytest.raises(BundleError, match=rf"^{flipped} of the store is not the file that was judged \("):
        copy_gguf(part, judged(), files)
