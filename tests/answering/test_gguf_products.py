"""GGUF files of a model: made once by llama.cpp's tools, verified on every read, and what is missing is named."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.runtimes.gguf import tools
from pytest_finetune.answering.runtimes.gguf.convertible import named, scaled
from pytest_finetune.answering.runtimes.gguf.products import GgufProducts, Prove
from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, Converted
from pytest_finetune.answering.runtimes.gguf.runtime import GgufRuntime
from pytest_finetune.answering.runtimes.gguf.served import ServedFiles
from pytest_finetune.answering.runtimes.gguf.splitting import splitting_of
from pytest_finetune.answering.runtimes.gguf.tools import (
    CONVERTER,
    FOLDER,
    LORA_CONVERTER,
    QUANTIZE,
    SERVER,
    find_server,
    find_tools,
    try_tools,
)
from pytest_finetune.answering.runtimes.merged import ModelFolders
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.server.checking import RenderingCheck
from pytest_finetune.answering.runtimes.server.decoding import NOTHING_SET
from pytest_finetune.experiment import GgufSettings
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.store import Store, collect
from pytest_finetune.training.base import BaseSource

pytest.importorskip("gguf")

# Writes a file with one matrix, in the form that is asked for, and what the tokenizer's way to split is called.
STAND_IN = """
import sys, numpy, gguf
from conversion.base import TextModel
out, form = (sys.argv[sys.argv.index(word) + 1] for word in ("--outfile", "--outtype"))
writer = gguf.GGUFWriter(out, "llama")
writer.add_tokenizer_pre(TextModel().get_vocab_base_pre(None))
kinds = {"f32": numpy.float32, "f16": numpy.float16}
writer.add_tensor("blk.0.attn_q.weight", numpy.ones((2, 256), kinds[form]))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
with open(__file__ + ".runs", "a") as runs:
    runs.write("converted\\n")
"""
UNKNOWN = (
    "class TextModel:\n    def get_vocab_base_pre(self, tokenizer):\n        raise NotImplementedError\n"
)
COPIES = "#!{python}\nimport shutil, sys\nassert sys.argv[3] == 'q8_0', 'invalid ftype'\nshutil.copy(*sys.argv[1:3])\n"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins of llama.cpp's programs, named by the environment."""
    root = tmp_path / "llama.cpp"
    (root / "bin").mkdir(parents=True)
    (root / "conversion").mkdir()
    (root / CONVERTER).write_text(STAND_IN)
    (root / "conversion" / "__init__.py").write_text('KNOWN = {"LlamaForCausalLM": "llama"}\n')
    (root / "conversion" / "base.py").write_text(UNKNOWN)
    for name in (SERVER, QUANTIZE):
        (root / "bin" / name).write_text(COPIES.format(python=sys.executable))
        (root / "bin" / name).chmod(0o755)
    monkeypatch.setenv(FOLDER, str(root))
    tools.release_of.cache_clear()
    tools._texts_digest.cache_clear()
    return root


@pytest.fixture
def base(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    numpy = pytest.importorskip("numpy")
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"weight": numpy.ones((2, 2), numpy.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = {"model": {"type": "BPE"}, "pre_tokenizer": BYTES}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def products(
    store: Store, base: Path, quantization: str, adapter: str = "merged", prove: Prove | None = None
) -> GgufProducts:
    folders = ModelFolders(store, BaseSource(str(base)), base, "cpu")
    return GgufProducts(store, folders, GgufSettings(quantization, adapter=adapter), find_tools, prove)


def entries(store: Store) -> list[Path]:
    return sorted((store.root / "gguf").iterdir())


def test_a_file_is_made_once_and_a_flipped_bit_makes_it_again(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    store = Store(tmp_path / "store")
    first = products(store, base, "q8_0")
    file = first.file(None)
    facts = first.facts(None)
    assert (facts["quantization"], facts["tensors"], facts["adapter"]) == ("q8_0", {"F32": 1}, "merged")
    assert facts["says"].startswith("q8_0 of ")
    assert facts["says"].endswith("1 tensor F32")  # what was written, not what was asked for
    assert len(entries(store)) == 2  # the whole form, and the one that is quantised from it
    runs = llama / f"{CONVERTER}.runs"
    assert products(store, base, "q8_0").file(None) == file
    assert products(store, base, "f32").file(None) in [entry / "model.gguf" for entry in entries(store)]
    assert runs.read_text().count("converted") == 1
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert products(Store(store.root), base, "q8_0").file(None) == file
    assert bytes(content) != file.read_bytes()
    assert runs.read_text().count("converted") == 1
    store.close()
    assert {
        removed.place.partition("/")[0] for removed in collect(Store(store.root), max_bytes=0).removed
    } >= {"gguf"}


def test_the_whole_form_is_proved_once_and_what_is_no_such_model_is_not_kept(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    asked: list[tuple[str, Path]] = []

    def prove(converted: Converted) -> ConversionProof:
        assert converted.file.is_file()
        assert converted.adapter is None
        asked.append((converted.form, converted.folder))
        return ConversionProof(3, 24, 0.01, 0.1)

    def refuse(converted: Converted) -> ConversionProof:
        raise AnsweringError("the converted model is not the one that was merged")

    store = Store(tmp_path / "store")
    with pytest.raises(AnsweringError, match="is not the one that was merged"):
        products(store, base, "q8_0", prove=refuse).file(None)
    assert not (store.root / "gguf").exists()
    facts = products(store, base, "q8_0", prove=prove).facts(None)
    assert facts["proof"] == {"rows": 3, "places": 24, "largest": 0.01, "allowed": 0.1}
    assert "; conversion proved at 24 places of 3 rows" in facts["says"]
    assert facts["says"].endswith("; 1 tensor F32")
    assert products(store, base, "f32", prove=prove).facts(None)["proof"] == facts["proof"]
    assert asked == [("f32", base)]


def test_a_tool_that_fails_leaves_nothing_and_says_its_last_words(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(
        AnsweringError, match=r"llama-quantize of llama.cpp has failed \(exit status 1\)"
    ) as caught:
        products(store, base, "q4_k_m").file(None)
    assert "invalid ftype" in str(caught.value).splitlines()[0]
    assert len(entries(store)) == 1
    (llama / CONVERTER).write_text(STAND_IN.replace("writer.write_tensors_to_file(); ", ""))
    tools._texts_digest.cache_clear()
    with pytest.raises(AnsweringError, match="is no whole GGUF file"):
        products(store, base, "f16").file(None)
    assert len(entries(store)) == 1


def test_another_converter_makes_another_file(tmp_path: Path, llama: Path, base: Path) -> None:
    store = Store(tmp_path / "store")
    first = products(store, base, "f16").file(None)
    (llama / "conversion" / "base.py").write_text(f"# newer\n{UNKNOWN}")
    tools._texts_digest.cache_clear()
    assert products(store, base, "f16").file(None) != first


def test_a_tokenizer_that_the_converter_does_not_know_is_named_by_how_it_splits(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    from gguf import GGUFReader

    file = products(Store(tmp_path / "store"), base, "f32").file(None)
    assert GGUFReader(file).fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    (base / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(AnsweringError, match="NotImplementedError"):
        products(Store(tmp_path / "other"), base, "f16").file(None)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([BYTES], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, BYTES], "smollm"),
        ([{"type": "Digits", "individual_digits": False}, BYTES], None),
        ([{**BYTES, "add_prefix_space": True}], None),
        ([{"type": "Whitespace"}], None),
        ([], None),
    ],
)
def test_a_way_to_split_has_a_name_only_where_it_is_plainly_known(
    tmp_path: Path, steps: Sequence[Any], name: str | None
) -> None:
    tokenizer = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert splitting_of(tmp_path) == name
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": {"type": "NFC"}}))
    assert splitting_of(tmp_path) is None


def test_what_is_missing_is_named_with_what_brings_it(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_tools()
    assert (found.knows("LlamaForCausalLM"), found.knows("NewForCausalLM")) == (True, False)
    assert found.release.startswith("sha256 ")  # the stand-in tells none
    (llama / "bin" / QUANTIZE).unlink()
    with pytest.raises(AnsweringError, match=rf"llama-quantize cannot be found in {FOLDER}={llama}\n"):
        find_tools()
    assert find_server() == llama / "bin" / SERVER  # a finished file needs no more
    monkeypatch.setenv(FOLDER, str(tmp_path / "lost"))
    with pytest.raises(AnsweringError, match=rf"{FOLDER} names {tmp_path / 'lost'}, where no folder is\n"):
        find_server()
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnsweringError, match="llama-server, llama-quantize, convert_hf_to_gguf") as caught:
        find_tools()
    assert f"export {FOLDER}=" in str(caught.value)


def test_a_program_that_does_not_run_is_told_before_it_is_needed(llama: Path) -> None:
    def writes(name: str, text: str) -> None:
        (llama / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")

    writes(SERVER, "echo 'version: 9 (abc)' >&2")
    writes(QUANTIZE, "echo usage: llama-quantize; exit 1")
    try_tools(find_tools())
    for name, word in ((QUANTIZE, "--help"), (SERVER, "--version")):
        writes(name, "echo old; exit 1")
        with pytest.raises(
            AnsweringError, match=rf"{name} .* `{word}` ended with exit status 1 and said 'old'\n"
        ):
            try_tools(find_tools())


def test_an_adapters_file_is_proved_beside_its_bases_whole_form(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    (llama / LORA_CONVERTER).write_text(STAND_IN.replace("TextModel().get_vocab_base_pre(None)", "'none'"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"x.lora_B.weight": torch.ones(8, 4)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16, "r": 4}))
    asked: list[Converted] = []

    def prove(converted: Converted) -> ConversionProof:
        asked.append(converted)
        if converted.adapter is None:
            return ConversionProof(3, 24, 0.01, 0.1)
        return ConversionProof(3, 24, 0.02, 0.1, 7.5)

    def refuse(converted: Converted) -> ConversionProof:
        if converted.adapter is None:
            return prove(converted)
        raise AnsweringError("the converted adapter is not the one that was trained")

    store = Store(tmp_path / "store")
    with pytest.raises(AnsweringError, match="is not the one that was trained"):
        products(store, base, "q8_0", "lora", refuse).adapter_file(adapter)
    whole = entries(store)
    assert len(whole) == 1  # of the base, on which it would have been proved
    unproved = products(store, base, "q8_0", "lora").facts(adapter)
    assert "proof" not in unproved["adapter_file"]
    asked.clear()
    made = products(store, base, "q8_0", "lora", prove)
    facts, file = made.facts(adapter), made.adapter_file(adapter)
    (proved,) = asked  # what was made before it was proved is made again
    assert (proved.form, proved.folder, proved.adapter) == ("f32", base, adapter)
    assert proved.file in [entry / "model.gguf" for entry in whole]
    assert file is not None
    proof = {"rows": 3, "places": 24, "largest": 0.02, "allowed": 0.1, "moved": 7.5}
    assert facts["adapter_file"] == {
        "sha256": sha256_of(file),
        "bytes": file.stat().st_size,
        "proof": proof,
    }
    assert "; its conversion proved at 24 places of 3 rows" in facts["says"]
    assert "(rounding explains up to 0.1, the adapter moves them by up to 7.5)" in facts["says"]
    assert "; the base's conversion proved at 24 places" in facts["says"]
    assert "adapter_file" not in made.facts(None)


def test_a_model_whose_configuration_leaves_its_class_out_is_named_for_the_converter(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tmp_path / "small"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text('{"model_type": "llama", "vocab_size": 7}')
    with named(model) as folder:
        config = json.loads((folder / "config.json").read_bytes())
        assert config == {"model_type": "llama", "vocab_size": 7, "architectures": ["LlamaForCausalLM"]}
        assert (folder.name, (folder / "model.safetensors").read_bytes()) == ("small", b"weights")
    assert (model / "model.safetensors").is_file()
    for left in ('{"model_type": "nobody-knows"}', '{"model_type": "llama", "architectures": ["Own"]}'):
        (model / "config.json").write_text(left)
        with named(model) as folder:
            assert folder == model


def test_an_adapters_scale_is_put_into_its_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{module}.lora_A.weight": torch.ones(4, 8), f"{module}.lora_B.weight": torch.ones(8, 4)},
        tmp_path / "adapter_model.safetensors",
    )

    def scale(**config: Any) -> float:
        written = {"lora_alpha": 16, "r": 4, **config}
        (tmp_path / "adapter_config.json").write_text(json.dumps(written))
        with scaled(tmp_path) as folder:
            assert json.loads((folder / "adapter_config.json").read_bytes())["lora_alpha"] == 0
            tensors = load_file(folder / "adapter_model.safetensors")
        assert bool((tensors[f"{module}.lora_A.weight"] == 1).all())
        return float(tensors[f"{module}.lora_B.weight"][0, 0])

    assert scale() == 4
    assert scale(use_rslora=True) == 16 / math.sqrt(4)
    assert scale(alpha_pattern={"q_proj": 2}) == 0.5
    with pytest.raises(AnsweringError, match="holds no DoRA magnitudes"):
        scale(use_dora=True)
    with pytest.raises(AnsweringError, match="holds no biases"):
        scale(bias="all")


def test_the_server_gets_room_for_the_longest_prompt_and_the_key_says_what_made_the_file(
    tmp_path: Path, llama: Path, base: Path
) -> None:
    def judged() -> Any:
        raise AssertionError("no prompt is asked here")

    def runtime(settings: GgufSettings) -> GgufRuntime:
        made = products(Store(tmp_path / "store"), base, settings.quantization)
        check = RenderingCheck("shipped", judged, refuses=True)
        log = tmp_path / "log"
        return GgufRuntime(ServedFiles("shipped", settings, made, find_tools, log, NOTHING_SET, check))

    shipped = runtime(GgufSettings("q8_0"))
    command = shipped._command(None, 500 + 48)
    assert command[command.index("--ctx-size") + 1] == "1024"
    assert command[command.index("--parallel") + 1] == "1"
    assert "--lora" not in command
    (llama / "bin" / QUANTIZE).rename(llama / "quantize")
    assert shipped._command(None, 548) == command  # what serves a finished file needs the server alone
    (llama / "quantize").rename(llama / "bin" / QUANTIZE)
    about = shipped.about()
    assert about == runtime(GgufSettings("q8_0")).about()
    assert about != runtime(GgufSettings("q8_0", adapter="lora")).about()
    assert about != runtime(GgufSettings("f16")).about()
    assert str(tmp_path) not in json.dumps(about)  # the same tools elsewhere are the same
