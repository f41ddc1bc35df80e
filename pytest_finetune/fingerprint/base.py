"""The digest of a base model: weights, tokenizer, chat template and configuration, by content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from pytest_finetune.fingerprint.canonical import digest
from pytest_finetune.fingerprint.folder import (
    INDEX,
    BaseModelError,
    read_json,
    top_files,
    weight_tensors,
)
from pytest_finetune.fingerprint.quantization import own_quantization
from pytest_finetune.fingerprint.sealed import sha256_of
from pytest_finetune.yamlfile import JsonTree

_SIDE_SUFFIXES: Final = frozenset({".json", ".txt", ".model", ".tiktoken"})
_PROSE: Final = ("readme", "license", "licence", "notice", "changelog", "use_policy", "requirements")
_NOT_TOKENIZER: Final = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "adapter_config.json",
        "trainer_state.json",
        "all_results.json",
        "train_results.json",
    }
)

# `_name_or_path` is where a model once lay; `transformers_version` is who wrote the file.
_CONFIG_NOISE: Final = frozenset({"_name_or_path", "name_or_path", "transformers_version"})

# transformers and PEFT import what these keys name (CVE-2026-4372; peft #3090).
_IMPORTING: Final = frozenset(
    {
        "auto_map",
        "custom_pipelines",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "auto_mapping",
    }
)
_KERNEL_KEYS: Final = frozenset(
    {"_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation"}
)


class DigestCache(Protocol):
    """Remembers file digests between runs."""

    def sha256_of(self, file: Path) -> str:
        """Return the SHA-256 of the file's present content."""
        ...


@dataclass(frozen=True, slots=True)
class BaseDigest:
    """Digests of the parts of one base model, each 64 hex digits.

    `generation` (its default decoding settings) changes answers and no weights; `code` is the digest
    of its Python files where they are trusted, else of nothing.
    """

    weights: str
    tokenizer: str
    template: str
    config: str
    generation: str
    code: str

    @property
    def value(self) -> str:
        """One digest of all parts."""
        return digest(asdict(self))

    def training_parts(self) -> dict[str, str]:
        """Return the parts that an adapter trained on this base depends on."""
        return {name: value for name, value in asdict(self).items() if name != "generation"}


def base_digest(
    folder: Path, cache: DigestCache | None = None, *, trust_remote_code: bool = False
) -> BaseDigest:
    """Digest the base model in `folder`; a Store as `cache` spares the second hashing of large weights.

    Raises BaseModelError when there are no safetensors weights, a shard is missing or truncated, or a
    configuration would make a library import code that the experiment does not trust.
    """
    try:
        return _digest_parts(folder, cache.sha256_of if cache else sha256_of, trust_remote_code)
    except OSError as error:
        raise BaseModelError(
            f"base model: {error.filename or str(folder)!r} cannot be read ({error.strerror})"
        ) from error


def _digest_parts(folder: Path, sha256: Callable[[Path], str], trust_remote_code: bool) -> BaseDigest:
    weight_tensors(folder)
    files = top_files(folder)
    weights = [name for name in files if name.endswith(".safetensors") or name == INDEX]
    configs = configurations(folder)
    if not trust_remote_code:
        refuse_code(folder, configs)
    tokenizer_config = _settings(configs.get("tokenizer_config.json"))
    inline_template = tokenizer_config.pop("chat_template", None)
    return BaseDigest(
        weights=digest({name: sha256(folder / name) for name in weights}),
        tokenizer=digest(
            {
                "config": tokenizer_config,
                "files": {name: sha256_of(folder / name) for name in files if _is_tokenizer_file(name)},
            }
        ),
        template=digest({"inline": inline_template, "files": dict(_template_files(folder))}),
        config=digest(_config(configs.get("config.json"))),
        generation=digest(_settings(configs.get("generation_config.json"))),
        code=digest(_code(folder) if trust_remote_code else {}),
    )


def configurations(folder: Path) -> dict[str, JsonTree]:
    """Return every configuration of the folder by its file's name. Raises BaseModelError."""
    found: dict[str, JsonTree] = {}
    for name in top_files(folder):
        if name.endswith("config.json"):
            tree = read_json(folder, name)
            if not isinstance(tree, dict):
                kind = type(tree).__name__
                raise BaseModelError(
                    f"base model: {name} in {str(folder)!r} holds a {kind}, not a mapping of settings"
                )
            found[name] = tree
    return found


def _config(config: object) -> JsonTree:
    """Return what counts of a configuration.

    Bases that are dequantised while they are loaded were once loaded without their scales: they are others now.
    """
    settings = _settings(config)
    own = own_quantization(settings)
    return {**settings, "(dequantised)": True} if own and own.dequantised else settings


def importing_keys(tree: object, prefix: str = "") -> list[str]:
    """Name the keys in a model's or an adapter's configuration that make a library import code."""
    found = []
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            place = f"{prefix}.{name}" if prefix else str(name)
            if _imports(name, value):
                found.append(place)
            else:
                found += importing_keys(value, place)
    elif isinstance(tree, list):
        for item in tree:
            found += importing_keys(item, prefix)
    return found


def _imports(name: object, value: object) -> bool:
    if name == "megatron_core":
        return value not in (None, "megatron.core")  # what PEFT writes by itself
    return (name in _IMPORTING and bool(value)) or (name in _KERNEL_KEYS and _names_repository(value))


def _names_repository(value: object) -> bool:
    """Tell an attention kernel on the hub (`org/name`) from a built-in one (`sdpa`)."""
    if isinstance(value, Mapping):
        return any(_names_repository(item) for item in value.values())
    return isinstance(value, str) and "/" in value


def refuse_code(folder: Path, configs: Mapping[str, JsonTree]) -> None:
    """Raise BaseModelError when a configuration makes a library import code."""
    for name, config in sorted(configs.items()):
        keys = importing_keys(config)
        if keys:
            raise BaseModelError(
                f"base model: {name} in {str(folder)!r} makes transformers import code ({', '.join(keys)}); "
                "read that code, then allow it with `trust_remote_code: true` in the experiment"
            )


def _settings(config: object) -> JsonTree:
    if not isinstance(config, dict):
        return {}
    return {name: _portable(value) for name, value in config.items() if name not in _CONFIG_NOISE}


def _portable(value: object) -> object:
    """Spell the numbers that JSON has no name for, such as a `-Infinity` bound, as text."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    if isinstance(value, dict):
        return {name: _portable(item) for name, item in value.items()}
    return [_portable(item) for item in value] if isinstance(value, list) else value


def _is_tokenizer_file(name: str) -> bool:
    """Take every side file that is not known to be something else: a needless retraining costs less
    than an adapter reused under another tokenizer.
    """
    lower = name.lower()
    return (
        Path(lower).suffix in _SIDE_SUFFIXES
        and not lower.startswith(_PROSE)
        and not lower.endswith((".index.json", "chat_template.json"))
        and lower not in _NOT_TOKENIZER
    )


def _template_files(folder: Path) -> Iterator[tuple[str, str]]:
    files = [*folder.glob("*.jinja"), *folder.glob("*chat_template.json")]
    files += folder.glob("additional_chat_templates/*.jinja")
    for file in sorted(files):
        yield file.relative_to(folder).as_posix(), sha256_of(file)


def _code(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.rglob("*.py"))}
