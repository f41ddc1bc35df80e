"""The keys of the store: of an adapter (what changes its weights) and of raw answers (what changes them)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_finetune.fingerprint.base import BaseDigest
from pytest_finetune.fingerprint.canonical import digest, flat, plain
from pytest_finetune.fingerprint.sealed import sha256_of
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment, Generation

ADAPTER_SCHEMA: Final = 1
"""Raise it when our own training code changes what the same experiment produces."""

OUTPUTS_SCHEMA: Final = 1
"""Raise it when our own generation code changes what the same prompts produce."""

ABSENT: Final = "(absent)"
"""What `Key.differs_from` shows on the side that lacks a field."""

WEIGHT_PACKAGES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes")
"""The packages whose version is part of an adapter's key."""

_ENVIRONMENT_FIELDS: Final = frozenset({"environment", "device_class", "dtype"})
_SAMPLING_FIELDS: Final = frozenset({"temperature", "top_p", "seed"})
_CONFIG_NOISE: Final = frozenset(
    {"base_model_name_or_path", "revision", "peft_version", "_name_or_path", "transformers_version"}
)


@dataclass(frozen=True, slots=True)
class Key:
    """A digest and the JSON tree that it is the digest of."""

    value: str
    fields: Json = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> Key:
        """Make the key of `fields`."""
        tree = plain(fields)
        assert isinstance(tree, dict)
        return cls(digest(tree), tree)

    def semantic(self) -> Key:
        """Return the key without the environment: the same experiment on any machine."""
        return Key.of({name: value for name, value in self.fields.items() if name not in _ENVIRONMENT_FIELDS})

    def differs_from(self, fields: Mapping[str, object]) -> dict[str, tuple[object, object]]:
        """Map the dotted name of each field that differs to `(theirs, ours)`; ABSENT where one has none."""
        old, new = flat(cast("Mapping[str, Any]", plain(fields))), flat(self.fields)
        names = sorted(old.keys() | new.keys())
        pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in names}
        return {name: (a, b) for name, (a, b) in pairs.items() if digest(a) != digest(b)}


def adapter_key(
    experiment: Experiment,
    pairs: Sequence[object],
    base: BaseDigest,
    environment: Mapping[str, str],
    device_class: str,
    dtype: str,
    *,
    trainer: str = "trl",
    template: Json = MappingProxyType({}),
    dev: Sequence[object] = (),
    replay: Json = MappingProxyType({}),
) -> Key:
    """Make the key of the adapter that this training would produce.

    `pairs` are the training rows as formatted, in order. Of `environment` only WEIGHT_PACKAGES count.
    `trainer` names (with its version) whatever trains when it is not ours. `template` is what the chat template adds:
    its arguments, the date that it is given, whether it ends a prompt otherwise than is asked. `dev` are the
    development rows as formatted, where the adapter is chosen on them, `replay` what stands for the base's answers
    that are taught as well. Paths, `eval_file`, charter, decision, generation and the prompt-only arm change no weight
    and are left out.
    """
    training = {
        name: value
        for name, value in _mapping(experiment.training).items()
        # How many checkpoints are kept changes nothing in the last one; which turns are taught stands in the pairs.
        # What is replayed has a field of its own. An adapter has one seed: the others change nothing in it.
        if name not in {"save_total_limit", "assistant_turns", "replay", "seeds"}
    }
    if experiment.training.launcher.processes == 1:
        del training["launcher"]  # several processes add up in another order; one adds as it always did
    if not experiment.training.shard:
        del training["shard"]
    if experiment.training.keep == "last":
        del training["keep"]
    return Key.of(
        {
            "schema": ADAPTER_SCHEMA,
            "peft_method": experiment.peft_method,
            "quantization": experiment.quantization,
            "lora": None if experiment.peft_method == "full" else _mapping(experiment.lora),
            "training": training,
            "prompt": {"template": experiment.prompt.template, **template},
            "pairs": {"count": len(pairs), "sha256": digest(pairs)},
            **({"replay": replay} if replay else {}),
            **({"dev": {"count": len(dev), "sha256": digest(dev)}} if dev else {}),
            "base": base.training_parts(),
            "trainer": trainer,
            "environment": {name: environment.get(name, ABSENT) for name in WEIGHT_PACKAGES},
            "device_class": device_class,
            "dtype": dtype,
            **attention_of(experiment),
        }
    )


def attention_of(experiment: Experiment) -> dict[str, str]:
    """Return what the attention adds to a key: nothing where the architecture's own was left to it."""
    asked = experiment.attn_implementation
    return {} if asked is None else {"attn_implementation": asked}


def outputs_key(
    model_digest: str,
    prompts: Sequence[object],
    generation: Generation,
    runtime: str,
    environment: Mapping[str, str],
    *,
    run: int = 1,
    template: Json = MappingProxyType({}),
) -> Key:
    """Make the key of the raw answers of one model to `prompts`, in order.

    All of `environment` counts: give the versions that the runtime uses, its device class and dtype.
    Give prompts without line numbers, so that a row inserted above does not ask for them again.
    Sampling settings count only when there is sampling. `run` numbers repeated runs of the same: each has
    a key of its own. `template` is what the chat template adds: the date that it is given, how its answers are read.
    """
    settings = _mapping(generation)
    if settings["constrain"] is None:
        del settings["constrain"]
    if not generation.do_sample:
        settings = {name: value for name, value in settings.items() if name not in _SAMPLING_FIELDS}
    return Key.of(
        {
            "schema": OUTPUTS_SCHEMA,
            "model": model_digest,
            "prompts": {"count": len(prompts), "sha256": digest(prompts)},
            "generation": settings,
            "runtime": runtime,
            "environment": dict(environment),
            **({"run": run} if run > 1 else {}),
            **({"template": template} if template else {}),
        }
    )


def model_digest(base: BaseDigest, adapter: Path | None = None, *, quantization: str = "none") -> str:
    """Digest the model that answers: the base as it is loaded, and the adapter on it."""
    return digest(
        {
            "base": base.value,
            "quantization": quantization,
            "adapter": None if adapter is None else adapter_digest(adapter),
        }
    )


def adapter_digest(folder: Path) -> str:
    """Digest an adapter, or a model that was trained in full, by its weights and its canonical configuration.

    PEFT writes `target_modules` in set order and the base's path into `adapter_config.json`; neither
    is part of the digest. Raises FileNotFoundError when the folder has no safetensors file.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"no safetensors file in {folder}")
    configs = (folder / "adapter_config.json", folder / "config.json")
    config = next((file for file in configs if file.exists()), configs[0])
    return digest(
        {
            "weights": {file.name: sha256_of(file) for file in weights},
            "config": _canonical_config(json.loads(config.read_bytes())) if config.exists() else None,
        }
    )


def package_versions(names: Sequence[str] = WEIGHT_PACKAGES) -> dict[str, str]:
    """Return the installed version of each package, ABSENT where there is none; imports none of them."""
    return {name: installed_version(name) for name in names}


@cache
def installed_version(name: str) -> str:
    """Return the version of a package, ABSENT where there is none; its metadata is parsed once a process."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ABSENT


def _canonical_config(config: object) -> object:
    if not isinstance(config, dict):
        return config
    return {
        name: sorted(value) if _is_text_list(value) else value
        for name, value in config.items()
        if name not in _CONFIG_NOISE
    }


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _mapping(value: object) -> dict[str, object]:
    tree = plain(value)
    assert isinstance(tree, dict)
    return tree
