"""What is pushed, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_finetune.bundle.format import MANIFEST, SIGNATURE
from pytest_finetune.bundle.reading import Bundle
from pytest_finetune.errors import FinetuneError


class PushError(FinetuneError):
    """Nothing was pushed, or not all of it; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A bundle that was verified; `sizes` maps every file that travels to its bytes."""

    bundle: Bundle
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, bundle: Bundle) -> Parcel:
        """Pack exactly what the manifest lists, the manifest, and the signature where there is one."""
        extra = [MANIFEST, *([SIGNATURE] if bundle.signed else [])]
        sizes = {**bundle.manifest.sizes, **{name: (bundle.folder / name).stat().st_size for name in extra}}
        return cls(bundle, dict(sorted(sizes.items())))

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.bundle.folder

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The experiment of the record that this adapter is about."""
        return self.bundle.experiment

    @property
    def digest(self) -> str:
        """The manifest's digest: two bundles with the same one are the same to the byte."""
        return self.bundle.manifest.digest

    @property
    def adapter_sha256(self) -> str:
        """The adapter's digest."""
        return self.bundle.manifest.adapter_sha256

    @property
    def total_bytes(self) -> int:
        """What travels, in bytes."""
        return sum(self.sizes.values())

    @property
    def verdict(self) -> str:
        """What the record says of the adapter."""
        return str(self.experiment["decision"]["verdict"])


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of a push: the place, its address, whether anything was new, and facts to tell as (name, words)."""

    place: str
    url: str
    new: bool
    told: Sequence[tuple[str, str]]
