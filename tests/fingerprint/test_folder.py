"""What a base's folder tells before anything is loaded."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from pytest_finetune.fingerprint import BaseModelError, base_digest, check_model, weight_tensors

LLAMA = {"model.embed_tokens.weight": (4, 2), "model.layers.0.mlp.up_proj.weight": (2, 2)}


def save(file: Path, shapes: Mapping[str, Sequence[int]], dtype: str = "F32") -> None:
    """Write a safetensors file of zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


@pytest.fixture
def model(base: Path) -> Path:
    save(base / "model.safetensors", LLAMA)
    return base


def test_a_plain_model_passes(model: Path) -> None:
    check_model(model)
    assert set(weight_tensors(model)) == set(LLAMA)


class Noting(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on, and count."""
        data = super().read(size)
        self.taken += len(data)
        return data


def test_of_each_weight_file_the_header_is_read_once_and_no_weight(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "model.safetensors").unlink()
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part, name in zip(parts, LLAMA, strict=True):
        save(base / part, {name: LLAMA[name]})
    weight_map = dict(zip(LLAMA, parts, strict=True))
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    opened: list[tuple[str, Noting]] = []
    really = Path.open

    def noted(file: Path, *given: Any, **named: Any) -> IO[Any]:
        stream: IO[Any] = really(file, *given, **named)
        if file.suffix != ".safetensors":
            return stream
        with stream:
            opened.append((file.name, Noting(stream.read())))
        return opened[-1][1]

    monkeypatch.setattr(Path, "open", noted)
    assert set(weight_tensors(base)) == set(LLAMA)
    weights = {part: 4 * math.prod(LLAMA[name]) for name, part in weight_map.items()}
    assert [(name, stream.taken) for name, stream in opened] == [
        (part, (base / part).stat().st_size - weights[part]) for part in parts
    ]


def wrapper(prefix: str) -> Callable[[Path], None]:
    return lambda folder: save(
        folder / "model.safetensors", {f"{prefix}{name}": shape for name, shape in LLAMA.items()}
    )


def adapter_among_them(folder: Path) -> None:
    save(folder / "model.safetensors", {**LLAMA, "model.layers.0.mlp.up_proj.lora_A.default.weight": (1, 2)})


def scales(folder: Path) -> None:
    save(folder / "model.safetensors", {**LLAMA, "model.layers.0.mlp.up_proj.weight_scale_inv": (1, 1)})


def leftover_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    save(folder / "adapter_model.safetensors", {"base_model.model.q.lora_A.weight": (1, 1)})


def two_sets(folder: Path) -> None:
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part, name in zip(parts, LLAMA, strict=True):
        save(folder / part, {name: LLAMA[name]})
    index = {"weight_map": dict(zip(LLAMA, parts, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_index(folder: Path) -> None:
    two_sets(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()


def other_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def only_gguf(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def pointer(name: str) -> Callable[[Path], object]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


def no_mapping(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[1]")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            wrapper("base_model.model."),
            "was saved from a wrapper (PEFT): 2 of 2 tensors begin with 'base_model.model.' "
            "(base_model.model.model.embed_tokens.weight), and transformers would fill the model with random numbers",
        ),
        (wrapper("_orig_mod."), "was saved from a wrapper (torch.compile)"),
        (wrapper("module."), "was saved from a wrapper (DataParallel)"),
        (
            adapter_among_them,
            "holds 1 tensor of an adapter among its weights (model.layers.0.mlp.up_proj.lora_A",
        ),
        (
            scales,
            "holds 1 tensor of a quantisation (model.layers.0.mlp.up_proj.weight_scale_inv), and its config",
        ),
        (
            leftover_adapter,
            "holds a model and an adapter (adapter_config.json, adapter_model.safetensors), and transformers would put "
            "the adapter on the base without a word: move both files into a folder of their own",
        ),
        (
            two_sets,
            "holds two sets of weights, model.safetensors and the 2 files of model.safetensors.index.json",
        ),
        (
            no_index,
            "holds 2 parts of a model (model-00001-of-00002.safetensors) and no model.safetensors.index.json",
        ),
        (other_name, "has no model.safetensors, which transformers reads (found: consolidated.safetensors)"),
        (only_gguf, "found model-q4.gguf, which cannot be trained); take the model in safetensors"),
        (pointer("model.safetensors"), "it is a Git LFS pointer, not the weights (run `git lfs pull`)"),
        (pointer("tokenizer.json"), "is a Git LFS pointer, not the file (run `git lfs pull`)"),
        (pointer("config.json"), "is a Git LFS pointer, not the file (run `git lfs pull`)"),
        (no_mapping, "generation_config.json in '{}' holds a list, not a mapping of settings"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
def test_what_is_not_the_model_that_was_named_is_one_sentence(
    model: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(model)
    with pytest.raises(BaseModelError) as refusal:
        check_model(model)
        base_digest(model)
    assert said.format(model) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_weights_under_the_name_that_the_configuration_gives_them(model: Path) -> None:
    other_name(model)
    (model / "config.json").write_text(json.dumps({"transformers_weights": "consolidated.safetensors"}))
    check_model(model)


def test_scales_belong_to_a_quantisation_that_is_named(model: Path) -> None:
    scales(model)
    config = {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}
    (model / "config.json").write_text(json.dumps(config))
    check_model(model)


def test_files_that_are_not_read_do_not_count(model: Path) -> None:
    save(model / "consolidated.safetensors", {"layers.0.attention.wq.weight": (2, 2)})
    check_model(model)
    assert set(weight_tensors(model)) == set(LLAMA)


def test_an_infinite_number_in_a_configuration_has_a_digest_in_every_spelling(model: Path) -> None:
    spellings = ("[0.0, Infinity]", '[0.0, {"__float__": "Infinity"}]', "[0.0, NaN]", "[0.0, -Infinity]")
    digests = set()
    for spelling in spellings:
        (model / "config.json").write_text(f'{{"model_type": "mamba2", "time_step_limit": {spelling}}}')
        digests.add(base_digest(model).config)
    assert len(digests) == len(spellings)
