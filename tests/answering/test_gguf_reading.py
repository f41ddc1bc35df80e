"""What a GGUF file says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.gguf.reading import read_header

gguf = pytest.importorskip("gguf")
numpy = pytest.importorskip("numpy")


def write_gguf(file: Path) -> Path:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["<s>", "</s>", "<|im_end|>", "a"])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(2)
    writer.add_chat_template(
        [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    )
    writer.add_float32("general.sampling.temp", 0.5)
    for name, kind in (("norm", numpy.float32), ("up", numpy.float16), ("down", numpy.float16)):
        writer.add_tensor(name, numpy.ones((32, 32), dtype=kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_header_tells_template_tokenizer_ends_and_how_tensors_are_stored(tmp_path: Path) -> None:
    found = read_header(write_gguf(tmp_path / "model.gguf"))
    assert found.templates == {"default": "one", "tool_use": "two"}
    assert found.quantization == "F16"
    assert found.facts() == {
        "architecture": "llama",
        "tokenizer": "gpt2",
        "pre": "qwen2",
        "bos": 0,
        "add_bos": True,
        "ends": [1, 2],
        "tensors": {"F32": 1, "F16": 2},
        "sampling": {"temp": 0.5},
    }


@pytest.mark.parametrize("kept", [0, 3, 24, 200])
def test_a_file_that_was_cut_is_named(tmp_path: Path, kept: int) -> None:
    whole = write_gguf(tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:kept])
    with pytest.raises(AnsweringError, match=r"cut\.gguf is no whole GGUF file: "):
        read_header(cut)
    cut.write_bytes(whole[:-64])
    with pytest.raises(AnsweringError, match=r"cut\.gguf is no whole GGUF file: "):
        read_header(cut)
