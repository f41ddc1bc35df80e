from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from pytest_finetune.fingerprint import Key
from pytest_finetune.store import Store

FLIPS = 1000


def test_every_bit_flip_in_an_entry_is_detected(
    store: Store, adapter: Callable[..., Callable[[Path], None]]
) -> None:
    key = Key.of({"lora": {"r": 8}})
    about = {"seconds": 1.25, "log": [{"loss": 0.5}]}
    files = {"README.md": "A card.\n" * 20, "tokenizer/tokenizer.json": '{"model": {"vocab": {"a": 0}}}'}
    entry = store.commit("adapters", key, adapter(*(0.01 * n for n in range(200)), files=files), about)
    intact = {file: file.read_bytes() for file in sorted(entry.path.rglob("*")) if file.is_file()}
    chance = random.Random(20261123)
    places = [(file, bit) for file, data in intact.items() for bit in range(8 * len(data))]
    missed = []
    for file, bit in chance.sample(places, FLIPS):
        flipped = bytearray(intact[file])
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        if store.read("adapters", key) is not None:
            missed.append((file.name, bit))
            file.write_bytes(intact[file])
            continue
        (kept,) = (path for path in (store.root / "set-aside").iterdir() if path.is_dir())
        kept.rename(entry.path)
        kept.with_name(f"{kept.name}.txt").unlink()
        file.write_bytes(intact[file])
    assert missed == []
    assert store.read("adapters", key) == entry
    assert {Path(file).name for file in intact} == {
        "MANIFEST.json", "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"
    }  # fmt: skip


def test_every_bit_of_the_manifest_counts(
    store: Store, adapter: Callable[..., Callable[[Path], None]]
) -> None:
    """Also the bits of what no reader needs, such as the date: nothing in it can turn unseen."""
    entry = store.commit("adapters", "key", adapter(0.5), {"note": "x"})
    from pytest_finetune.store.manifest import DefectError, parse

    intact = (entry.path / "MANIFEST.json").read_bytes()
    for bit in range(8 * len(intact)):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            parse(bytes(flipped), "adapters", "key", entry.path)
        except DefectError:
            continue
        raise AssertionError(f"bit {bit} of the manifest can turn unseen")
