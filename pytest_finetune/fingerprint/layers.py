"""Hold a base's files against their index and their layers against each other, before any library is loaded.

Where an architecture's layers are all alike, a tensor that most of them have is missing from the others, and one that
a single layer has is in no place of the model. What only the model can tell is told when it is loaded (`matching`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pytest_finetune.fingerprint.folder import indexed_tensors, read_json, weight_tensors
from pytest_finetune.fingerprint.matching import COMPUTED, Match
from pytest_finetune.fingerprint.quantization import own_quantization
from pytest_finetune.safetensors_check import Tensor
from pytest_finetune.yamlfile import Json

# Architectures of which every layer has the same tensors; a nightly test builds each of them.
ALIKE: Final = frozenset({
    "bloom", "cohere", "cohere2", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm4",
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe", "gpt_oss", "hunyuan_v1_dense", "llama",
    "mamba", "mamba2", "ministral", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "olmoe",
    "opt", "phi", "phi3", "phimoe", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
_NO_NORM: Final = frozenset({"olmo", "phi"})  # theirs has no weight, or another name
_LAYER: Final = re.compile(r"(.*?(?:^|\.)(?:layers|h|blocks))\.(\d+)\.(.+)")
_COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


class _Place(NamedTuple):
    """Where a tensor of a layer stands: the name of the list of layers, its number, and the rest of its name."""

    layers: str
    number: int
    part: str


def match_of_layers(folder: Path) -> Match | None:
    """Return how the files of a base differ from what its layers and configuration promise; None where nothing does.

    None as well where names do not tell it: of other architectures, and of quantised bases. Raises BaseModelError.
    """
    tensors = {name: tensor for name, tensor in weight_tensors(folder).items() if not COMPUTED.search(name)}
    named = indexed_tensors(folder)
    lost = sorted(name for name in named - tensors.keys() if not COMPUTED.search(name))
    if lost:
        return Match(tensors=len(named), modules=(), missing=lost)
    config = read_json(folder, "config.json")
    if not isinstance(config, dict) or config.get("model_type") not in ALIKE or own_quantization(config):
        return None
    places = {name: place for name in tensors if (place := _place(name))}
    if len({place.layers for place in places.values()}) != 1:
        return None
    match = _match(config, tensors, places)
    return match if match.trouble else None


def _place(name: str) -> _Place | None:
    found = _LAYER.match(name)
    return _Place(found[1], int(found[2]), found[3]) if found else None


def _match(config: Json, tensors: Mapping[str, Tensor], places: Mapping[str, _Place]) -> Match:
    numbers = {place.number for place in places.values()}
    count = next((config[key] for key in _COUNTS if isinstance(config.get(key), int)), len(numbers))
    (layers,) = {place.layers for place in places.values()}
    inside = {name: place for name, place in places.items() if place.number < count}
    held = Counter(place.part for place in inside.values())
    parts = {part for part, times in held.items() if 2 * times >= count}
    expected = {f"{layers}.{number}.{part}" for number in range(count) for part in parts}
    expected |= set(_beside_the_layers(config, layers))
    missing = sorted(expected - tensors.keys())
    heads = (name for name in tensors.keys() - places.keys() - expected if not name.startswith("model."))
    instead = sorted(heads) if "lm_head.weight" in missing else ()
    return Match(
        tensors=len(expected | (tensors.keys() - places.keys())),
        modules={layers, *(name.rpartition(".")[0] for name in expected)},
        missing=missing,
        unexpected=[*sorted(places.keys() - expected), *instead],
        mismatched=[*_of_other_shape(tensors, inside), *_of_other_vocabulary(config, tensors)],
    )


def _beside_the_layers(config: Json, layers: str) -> Iterator[str]:
    """Yield the tensors that stand beside the layers, in the architectures that all name them alike."""
    root, _, last = layers.rpartition(".")
    if last != "layers" or root not in ("", "model"):
        return
    beside = f"{root}." if root else ""
    yield f"{beside}embed_tokens.weight"
    if config["model_type"] not in _NO_NORM:
        yield f"{beside}norm.weight"
    if config.get("tie_word_embeddings") is False:
        yield "lm_head.weight"


def _of_other_shape(
    tensors: Mapping[str, Tensor], places: Mapping[str, _Place]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    shapes: dict[str, Counter[tuple[int, ...]]] = {}
    for name, place in places.items():
        shapes.setdefault(place.part, Counter())[tensors[name].shape] += 1
    for name, place in places.items():
        usual, _ = shapes[place.part].most_common(1)[0]
        if tensors[name].shape != usual:
            yield name, tensors[name].shape, usual


def _of_other_vocabulary(
    config: Json, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    size = config.get("vocab_size")
    for name, tensor in tensors.items():
        shape = tensor.shape
        if name.endswith("embed_tokens.weight") and isinstance(size, int) and shape[0] != size:
            yield name, shape, (size, *shape[1:])
