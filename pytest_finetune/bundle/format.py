"""MANIFEST.json of a bundle: every file's digest, and a digest of itself, so that no bit of it can turn unseen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint.sealed import sealed, sha256_of, unsealed
from pytest_finetune.fingerprint.sealed import walk as files_below
from pytest_finetune.yamlfile import Json

MANIFEST: Final = "MANIFEST.json"
SIGNATURE: Final = "model.sig"  # covers the manifest, so the manifest cannot list it
SCHEMA_VERSION: Final = "1"
_INDENT: Final = 2
RECORD: Final = "record.json"
EXPERIMENT: Final = "experiment"  # a project root of its own: paths of the experiment file are relative to it
# What the Hub and `hf download` put beside the files of a bundle; nothing that loads a model reads them.
_OF_THE_HUB: Final = re.compile(
    r"\.gitattributes|\.cache/huggingface/"
    r"(?:\.gitignore(?:\.lock)?|CACHEDIR\.TAG|trees/[0-9a-f]{40}\.json|download/[^\0]+\.(?:metadata|lock))"
)


class BundleError(FinetuneError, ValueError):
    """The bundle cannot be written or read; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says it holds; `files` maps posix names to their SHA-256, `sizes` to bytes."""

    experiment: str
    adapter_sha256: str
    base_model: str
    revision: str | None
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    digest: str
    tree: Json


def render(body: Json) -> bytes:
    """Return the manifest's bytes."""
    return sealed(body, _INDENT)


def parse(data: bytes) -> Manifest:
    """Read a manifest; BundleError unless these are exactly the bytes that `render` made."""
    tree = unsealed(data, _INDENT)
    if tree is None:
        raise BundleError(f"{MANIFEST} was changed: it does not match its own digest")
    try:
        if tree["schema_version"] != SCHEMA_VERSION:
            raise BundleError(
                f"{MANIFEST} has schema_version {tree['schema_version']!r}, this version reads {SCHEMA_VERSION}"
            )
        files = {_checked_name(name): str(facts["sha256"]) for name, facts in tree["files"].items()}
        sizes = {name: int(facts["bytes"]) for name, facts in tree["files"].items()}
        return Manifest(
            experiment=tree["experiment"],
            adapter_sha256=tree["adapter_sha256"],
            base_model=tree["base_model"],
            revision=tree["revision"],
            files=files,
            sizes=sizes,
            digest=tree["digest"],
            tree=tree,
        )
    except BundleError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError):
        raise BundleError(f"{MANIFEST} was changed: it is not what a promotion writes") from None


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash every file below `folder` but manifest and signature, as the manifest lists them."""
    return {
        name: {"sha256": sha256_of(folder / name, links=False), "bytes": size}
        for name, size in sorted(walk(folder))
        if name not in {MANIFEST, SIGNATURE}
    }


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the posix name and size of every file; BundleError for a link or a special file."""
    return files_below(folder, BundleError, empty_folders=True)


def of_the_hub(name: str) -> bool:
    """Tell whether a file is one that a bundle gets beside its own on the way through the Hub.

    >>> of_the_hub(".gitattributes"), of_the_hub(".cache/huggingface/download/record.json.metadata")
    (True, True)
    >>> of_the_hub(".cache/huggingface/download/model.bin"), of_the_hub("outputs/.gitattributes")
    (False, False)
    """
    return _OF_THE_HUB.fullmatch(name) is not None


def input_files(checksums: Json, suite: str = "suites.") -> dict[str, Json]:
    """Map the name of each file that the run read to its path and digest; `suite` stands before the name of a suite."""
    named = {name: facts for name, facts in checksums.items() if name != "suites" and facts}
    suites = checksums.get("suites") or {}
    return named | {f"{suite}{name}": facts for name, facts in suites.items() if facts}


def _checked_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or str(PurePosixPath(name)) != name:
        raise BundleError(f"{MANIFEST} names {name!r}, which is no file of a bundle")
    return name
