from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.fingerprint import BaseDigest, BaseModelError, base_digest, importing_keys, sha256_of
from pytest_finetune.store import Store


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def parts_that_changed(before: BaseDigest, after: BaseDigest) -> set[str]:
    old, new = dataclasses.asdict(before), dataclasses.asdict(after)
    return {name for name in old if old[name] != new[name]}


@pytest.mark.parametrize(
    ("name", "changes", "part"),
    [
        ("config.json", {"rope_theta": 1}, "config"),
        ("generation_config.json", {"do_sample": True}, "generation"),
        ("tokenizer.json", {"version": "2"}, "tokenizer"),
        ("tokenizer_config.json", {"add_bos_token": True}, "tokenizer"),
        ("tokenizer_config.json", {"chat_template": "{{ y }}"}, "template"),
    ],
)
def test_each_file_belongs_to_one_part(base: Path, name: str, changes: dict[str, object], part: str) -> None:
    before = base_digest(base)
    edit(base / name, **changes)
    after = base_digest(base)
    assert parts_that_changed(before, after) == {part}
    assert after.value != before.value


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("chat_template.jinja", "template"),
        ("chat_template.json", "template"),
        ("additional_chat_templates/tool.jinja", "template"),
        ("vocab.json", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("tokenizer.model", "tokenizer"),
        ("special_tokens_map.json", "tokenizer"),
    ],
)
def test_a_new_file_changes_its_part(base: Path, name: str, part: str) -> None:
    before = base_digest(base)
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_text("{}")
    assert parts_that_changed(before, base_digest(base)) == {part}


def test_one_bit_of_the_weights_changes_the_digest(base: Path) -> None:
    before = base_digest(base)
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    assert parts_that_changed(before, base_digest(base)) == {"weights"}


def test_where_it_lies_who_saved_it_and_its_card_do_not_matter(base: Path) -> None:
    before = base_digest(base)
    edit(base / "config.json", _name_or_path="/home/b", transformers_version="5.1")
    (base / "README.md").write_text("Another card.")
    (base / "LICENSE.txt").write_text("Apache-2.0")
    (base / "loss.png").write_bytes(b"picture")
    moved = base.with_name("moved")
    base.rename(moved)
    assert base_digest(moved) == before


def test_code_counts_where_it_is_trusted(base: Path) -> None:
    edit(base / "config.json", auto_map={"AutoModel": "modeling.Model"})
    (base / "modeling.py").write_text("x = 1")
    before = base_digest(base, trust_remote_code=True)
    (base / "modeling.py").write_text("x = 2")
    assert parts_that_changed(before, base_digest(base, trust_remote_code=True)) == {"code"}


@pytest.mark.parametrize(
    ("name", "tree", "place"),
    [
        ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "org/x--m.M"}}}, "text_config.auto_map"),
        ("config.json", {"_attn_implementation_internal": "org/kernel"}, "_attn_implementation_internal"),
        ("config.json", {"attn_implementation": "org/kernel:f"}, "attn_implementation"),
        ("config.json", {"custom_pipelines": {"p": {"impl": "p.P"}}}, "custom_pipelines"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}, "auto_map"),
    ],
)
def test_a_configuration_that_imports_code_is_refused_with_the_way_to_allow_it(
    base: Path, name: str, tree: dict[str, Any], place: str
) -> None:
    edit(base / name, **tree)
    with pytest.raises(BaseModelError) as refusal:
        base_digest(base)
    assert f"{name} in '{base}' makes transformers import code ({place})" in str(refusal.value)
    assert "trust_remote_code: true" in str(refusal.value)
    assert base_digest(base, trust_remote_code=True).value


def test_harmless_configuration_is_not_taken_for_code() -> None:
    assert importing_keys({"attn_implementation": "sdpa", "auto_map": {}, "auto_mapping": None}) == []
    assert importing_keys({"megatron_core": "megatron.core", "layers": [{"a": 1}]}) == []
    assert importing_keys({"megatron_core": "evil"}) == ["megatron_core"]
    assert importing_keys([{"x": {"auto_mapping": {"parent_library": "evil"}}}]) == ["x.auto_mapping"]


def test_a_folder_with_pickle_weights_only_is_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"pickle weights only \(pytorch_model\.bin\).*save_pretrained"):
        base_digest(base)


def test_a_pickle_beside_safetensors_is_never_read(base: Path) -> None:
    before = base_digest(base)
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert base_digest(base) == before


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, r"no config\.json \(found: nothing\)"),
        ({"notes.md": ""}, r"no config\.json \(found: notes\.md\)"),
        ({"config.json": "{}"}, r"has no weights: no \*\.safetensors file in it$"),
        ({"config.json": "{}", "model.gguf": ""}, r"no weights.*found model\.gguf, which cannot be trained"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "holds an adapter"),
        ({"config.json": "{}", "model.safetensors": ""}, r"model\.safetensors.*truncated"),
        (
            {
                "config.json": "{}",
                "model.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0",
            },
            "Git LFS pointer.*git lfs pull",
        ),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path: Path, files: dict[str, str], words: str) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(BaseModelError, match=words):
        base_digest(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="is not a folder"):
        base_digest(tmp_path / "nowhere")


def test_broken_json_is_named(base: Path) -> None:
    (base / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"config\.json in .* is not readable JSON"):
        base_digest(base)


def test_a_byte_order_mark_that_transformers_refuses_is_named(base: Path) -> None:
    file = base / "tokenizer_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    with pytest.raises(BaseModelError, match=r"tokenizer_config\.json in .* begins with a byte order mark"):
        base_digest(base)


def test_a_link_to_a_file_that_is_not_there_is_named(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(
        BaseModelError, match=r"model\.safetensors in .* is a link to a file that is not there \(\.\./"
    ):
        base_digest(base)


def test_a_missing_shard_is_named(base: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        base_digest(base)


def test_a_truncated_shard_is_named(base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BaseModelError, match=r"model\.safetensors .*cannot be used"):
        base_digest(base)


class CountingStore(Store):
    asked: int = 0

    def sha256_of(self, file: Path) -> str:
        self.asked += 1
        return super().sha256_of(file)


def test_weights_are_hashed_through_the_store(base: Path, tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    assert base_digest(base, store) == base_digest(base)
    assert store.asked == 1


def age(file: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(file, (past, past))


def test_a_large_file_is_hashed_once_and_again_after_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_finetune.store import digests

    hashed: list[str] = []
    real = sha256_of

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(digests, "_RACY_NS", 0)
    file, store = tmp_path / "weights", Store(tmp_path / "store")
    file.write_bytes(b"\0" * 5_000_000)
    first = store.sha256_of(file)
    assert (store.sha256_of(file), Store(store.root).sha256_of(file), len(hashed)) == (first, first, 1)
    modified = file.stat().st_mtime_ns
    file.write_bytes(b"\1" * 5_000_000)
    os.utime(file, ns=(modified, modified))  # same size, same modification time, other bytes
    assert store.sha256_of(file) != first
    assert len(hashed) == 2


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    file, store = tmp_path / "weights", Store(tmp_path / "store")
    file.write_bytes(b"\0" * 5_000_000)
    store.sha256_of(file)
    assert not (store.root / "digests").exists()


def test_a_damaged_memory_of_a_digest_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_finetune.store.digests._RACY_NS", 0)
    file, store = tmp_path / "weights", Store(tmp_path / "store")
    file.write_bytes(b"\0" * 5_000_000)
    right = store.sha256_of(file)
    (note,) = (store.root / "digests").iterdir()
    note.write_text(note.read_text().replace(right[:8], "00000000"))
    assert store.sha256_of(file) == right


def test_a_store_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_finetune.store.digests._RACY_NS", 0)
    (tmp_path / "store").write_text("a file in the store's place")
    file = tmp_path / "weights"
    file.write_bytes(b"\0" * 5_000_000)
    assert len(Store(tmp_path / "store").sha256_of(file)) == 64
