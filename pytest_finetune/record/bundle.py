"""The promotion bundle: everything that the next engineer needs, in one folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "MANIFEST.json"
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class BundleError(ValueError):
    """The bundle cannot be written; the message is for the user."""


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Where a bundle's parts lie: folders and files that exist, and the experiment's record."""

    adapter: Path
    base: Path
    record: Path
    files: Sequence[Path]
    experiment: Mapping[str, Any]


def write_bundle(target: Path, source: BundleSource) -> str:
    """Write the bundle and return the digest of its manifest.

    An existing bundle of the same adapter is replaced; BundleError when `target` holds anything else.
    """
    adapter_sha256 = source.experiment["training"]["adapter_sha256"]
    _refuse_other(target, adapter_sha256)
    part = target.with_name(f".{target.name}-{uuid.uuid4().hex[:12]}")
    part.mkdir(parents=True)
    try:
        _fill(part, source)
        manifest = _manifest(part, source, adapter_sha256)
        _write(part / MANIFEST, manifest)
        _put(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return hashlib.sha256(manifest).hexdigest()


def _refuse_other(target: Path, adapter_sha256: str) -> None:
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
    experiment = source.experiment
    for weights in sorted(source.adapter.glob("*.safetensors")):
        shutil.copyfile(weights, part / weights.name)
    config = json.loads((source.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = experiment["config"]["base_model"]
    config["revision"] = experiment["config"]["revision"]
    _write(part / "adapter_config.json", (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    for name in _TOKENIZER_FILES:
        if (source.base / name).is_file():
            shutil.copyfile(source.base / name, part / name)
    (part / "experiment").mkdir()
    for file in source.files:
        shutil.copyfile(file, part / "experiment" / file.name)
    for name in ("record.json", "report.html", "decision.md"):
        shutil.copyfile(source.record / name, part / name)
    shutil.copytree(source.record / "outputs", part / "outputs")
    _write(part / "README.md", _card(experiment).encode())


def _manifest(part: Path, source: BundleSource, adapter_sha256: str) -> bytes:
    files = sorted(path for path in part.rglob("*") if path.is_file())
    content = {
        "schema_version": "1",
        "task": source.experiment["task"],
        "adapter_sha256": adapter_sha256,
        "base_model": source.experiment["config"]["base_model"],
        "revision": source.experiment["config"]["revision"],
        "dataset_sha256": {
            split: found["sha256"]
            for split, found in source.experiment["checksums"].items()
            if "sha256" in found
        },
        "files": {
            path.relative_to(part).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _card(experiment: Mapping[str, Any]) -> str:
    """Return a short model card; the evidence stands in decision.md and record.json beside it."""
    config, charter, decision = experiment["config"], experiment["charter"], experiment["decision"]
    header = {
        "base_model": config["base_model"],
        "library_name": "peft",
        "license": charter.get("base_license") or "other",
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    lines = [
        f"---\n{front}\n---",
        f"# {experiment['task']}",
        charter.get("behaviour") or "",
        f"Decision: **{decision['verdict']}**. {decision['reasons'][0]}",
        f"Method: {config['peft_method']}, rank {config['lora']['r']}, base stored as {config['quantization']}.",
        f"Owner: {charter.get('owner') or 'not stated'}. Retire when: {charter.get('retire_when') or 'not stated'}",
        "Load: `PeftModel.from_pretrained(base, folder)`. Evidence: `decision.md`, `record.json`, `outputs/`.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _put(part: Path, target: Path) -> None:
    """Let the finished folder take the target's place; the old bundle, of the same adapter, goes last."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}-old-{uuid.uuid4().hex[:12]}")
        target.rename(old)
    part.rename(target)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
