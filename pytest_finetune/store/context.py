"""What every part of a store shares: where it lies, what it has to say, and its first write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_finetune.store.disk import write_atomically
from pytest_finetune.store.shared.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Ground:
    """The root folder of a store, what it shares with others, and the warnings that its parts have for the user."""

    root: Path
    upstream: Upstream | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Keep a message for the user, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def prepare(self) -> None:
        """Make the root, invisible to git; OSError when it cannot be written."""
        if not (self.root / ".gitignore").exists():
            write_atomically(self.root / ".gitignore", b"*\n")
