"""Where a bundle goes, from the word behind ``--to``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_EXAMPLES: Final = "hf://org/name, hf://org/name@branch, mlflow:http://host:5000 or mlflow:"
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_BRANCH: Final = re.compile(r"(?!refs/)[A-Za-z0-9](?:[\w.-]|/(?=[A-Za-z0-9])){0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A model repository of the Hub; `branch` is None where the bundle itself names it."""

    repository: str
    branch: str | None

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.branch}" if self.branch else "")


@dataclass(frozen=True, slots=True)
class MlflowTarget:
    """A tracking server; `uri` is None where MLFLOW_TRACKING_URI names it."""

    uri: str | None

    def __str__(self) -> str:
        return f"mlflow:{self.uri or ''}"


Target = HubTarget | MlflowTarget


def parse(text: str) -> Target:
    """Read a target; ValueError, for the user, when it is none.

    >>> parse("hf://acme/tickets@v2")
    HubTarget(repository='acme/tickets', branch='v2')
    >>> parse("mlflow:")
    MlflowTarget(uri=None)
    """
    if text.startswith("hf://"):
        return _hub(text)
    if text.startswith("mlflow:"):
        return _mlflow(text.removeprefix("mlflow:"))
    raise ValueError(f"{text!r} is no place to push to: write {_EXAMPLES}")


def _hub(text: str) -> HubTarget:
    repository, at, branch = text.removeprefix("hf://").partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ValueError(
            f"{text!r} names no repository of the Hub: write hf://org/name or hf://org/name@branch"
        )
    if at and (not _BRANCH.fullmatch(branch) or ".." in branch):
        raise ValueError(f"{text!r} names no branch behind the @: write hf://org/name@branch, or leave @ out")
    return HubTarget(repository, branch if at else None)


def _mlflow(uri: str) -> MlflowTarget:
    if not uri:
        return MlflowTarget(None)
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError(
            "a tracking server is named without credentials: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN, hold them"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"'mlflow:{uri}' names no tracking server: write mlflow:http://host:5000, or mlflow: alone for the one "
            "in MLFLOW_TRACKING_URI"
        )
    return MlflowTarget(uri.rstrip("/"))
