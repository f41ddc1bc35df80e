"""The promotion bundle: everything that the next engineer needs, in one folder that appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_finetune.bundle import format as bundle_manifest
from pytest_finetune.bundle.card import model_card
from pytest_finetune.bundle.format import (
    EXPERIMENT,
    MANIFEST,
    RECORD,
    BundleError,
    describe,
    input_files,
    render,
)
from pytest_finetune.bundle.shipped import copy_gguf, told
from pytest_finetune.bundle.statement import STATEMENT, statement, statement_json
from pytest_finetune.fingerprint import adapter_digest, sha256_of
from pytest_finetune.store import disk
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.yamlfile import Json

_MODEL_CONFIGS: Final = ("config.json", "generation_config.json")
_VIEWS: Final = (RECORD, "report.html", "decision.md")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Where a bundle's parts lie, and what they are.

    `adapter` (an adapter's folder, or that of a model that was trained in full) and `base` are folders; `folder` is the
    record's; `files` maps names relative to the project (the experiment, its contract, the rows when they are asked
    for) to files and the SHA-256 that they had when the run read them. `revision` is the commit of a base from the hub.
    `gguf` are the files that gave the answers of the decision, by name, where a GGUF runtime did. `sign` signs a
    finished folder.
    """

    adapter: Path
    base: Path
    revision: str | None
    folder: Path
    record: Json
    experiment: Json
    files: Mapping[str, tuple[Path, str]]
    gguf: Mapping[str, Path] = field(default_factory=dict)
    sign: Callable[[Path], None] | None = field(default=None, repr=False)

    @property
    def adapter_sha256(self) -> str:
        """The digest of the adapter that was judged."""
        return str(self.experiment["training"]["adapter_sha256"])


def write_bundle(target: Path, source: BundleSource) -> str:
    """Write the bundle and return the digest in its manifest.

    An existing bundle of the same adapter is replaced; BundleError when `target` holds anything else, or when
    something is no longer what was judged.
    """
    refuse_other(target, source.adapter_sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{disk.temporary_name()}"
    part.mkdir()
    try:
        _fill(part, source)
        _make_durable(part)
        digest = bundle_manifest.parse((part / MANIFEST).read_bytes()).digest
        if source.sign is not None:
            source.sign(part)
        _put(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return digest


def refuse_other(target: Path, adapter_sha256: str) -> None:
    """Raise BundleError when `target` holds anything but a bundle of this adapter."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        found = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["adapter_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(
            f"{target} holds something that is no bundle: name another folder, or empty it"
        ) from None
    if found != adapter_sha256:
        raise BundleError(
            f"{target} holds a bundle of another adapter ({found[:12]}, this one is {adapter_sha256[:12]}): "
            "name another folder, or remove the old bundle"
        )


def _fill(part: Path, source: BundleSource) -> None:
    _copy_weights(part, source)
    for folder in (source.base, source.adapter):  # a whole model has a tokenizer of its own
        _copy_tokenizer(part, folder)
    _copy_inputs(part, source)
    copy_gguf(part, source.experiment, source.gguf)
    for name in _VIEWS:
        shutil.copyfile(source.folder / name, part / name)
    shutil.copytree(source.folder / "outputs", part / "outputs")
    card = model_card(source.record, source.experiment, source.revision)
    (part / "README.md").write_bytes(card.encode("utf-8"))
    files = {name: facts["sha256"] for name, facts in describe(part).items()}
    content = statement(source.record, source.experiment, source.revision, files)
    (part / STATEMENT).write_bytes(statement_json(content))
    (part / MANIFEST).write_bytes(_manifest(part, source))


def _copy_weights(part: Path, source: BundleSource) -> None:
    for weights in sorted(source.adapter.glob("*.safetensors")):
        shutil.copyfile(weights, part / weights.name)
    if is_whole_model(source.adapter):
        _copy_named(part, source.adapter, _MODEL_CONFIGS)
    else:
        _pin_base(part, source)
    if adapter_digest(part) != source.adapter_sha256:
        raise BundleError("the adapter in the store is not the one that was judged: run again")


def _pin_base(part: Path, source: BundleSource) -> None:
    config = json.loads((source.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = source.experiment["config"]["base_model"]
    config["revision"] = source.revision
    (part / "adapter_config.json").write_bytes((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _copy_tokenizer(part: Path, folder: Path) -> None:
    _copy_named(part, folder, _TOKENIZER_FILES)
    templates = "additional_chat_templates"
    if (folder / templates).is_dir():
        shutil.copytree(folder / templates, part / templates, dirs_exist_ok=True)


def _copy_named(part: Path, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, part / name)


def _copy_inputs(part: Path, source: BundleSource) -> None:
    for name, (file, sha256) in source.files.items():
        copy = part / EXPERIMENT / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        if sha256_of(copy, links=False) != sha256:
            raise BundleError(f"{name} has changed since the run read it: run again, then promote")


def _manifest(part: Path, source: BundleSource) -> bytes:
    inputs = input_files(source.experiment["checksums"])
    return render(
        {
            "schema_version": bundle_manifest.SCHEMA_VERSION,
            "experiment": source.experiment["name"],
            "task": source.experiment["task"],
            "adapter_sha256": source.adapter_sha256,
            "base_model": source.experiment["config"]["base_model"],
            "revision": source.revision,
            "dataset_sha256": {name: facts["sha256"] for name, facts in inputs.items()},
            **told(source.experiment),
            "files": describe(part),
        }
    )


def _make_durable(part: Path) -> None:
    """Bring every file and folder to the disk, so that a crash cannot leave an empty file under a good name."""
    for path in sorted(part.rglob("*")):
        (disk.sync_folder if path.is_dir() else disk.sync_file)(path)
    disk.sync_folder(part)


def _put(part: Path, target: Path) -> None:
    """Let the finished folder take the target's place in one step; the old bundle, of the same adapter, goes last."""
    if target.exists():
        disk.exchange(part, target)  # the caller removes what stands at `part`
    else:
        part.rename(target)
    disk.sync_folder(target.parent)
