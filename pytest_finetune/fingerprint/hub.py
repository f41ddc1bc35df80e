"""Find a base model on this machine: a local folder, or a snapshot in the Hugging Face cache; where data sets lie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint.folder import BaseModelError
from pytest_finetune.wording import nearest

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def base_folder(experiment: Experiment) -> Path:
    """Return the folder that holds the experiment's base model; BaseModelError when it is not here."""
    local = experiment.local_base()
    if local is not None:
        return local
    snapshot = cached_snapshot(experiment.base_model, experiment.revision)
    if snapshot is None:
        beside = experiment.root / Path(experiment.base_model).parent
        if beside != experiment.root and beside.is_dir():
            there = sorted(folder.name for folder in beside.iterdir() if (folder / "config.json").is_file())
            guess = nearest(Path(experiment.base_model).name, there, cutoff=0.3)
            told = (
                f"did you mean {str(Path(experiment.base_model).parent / guess)!r}?"
                if guess
                else "make it first"
            )
            raise BaseModelError(f"base model: there is no folder {experiment.base_model!r}; {told}")
        revision = f" --revision {experiment.revision}" if experiment.revision else ""
        raise BaseModelError(
            f"base model: {experiment.base_model!r} is neither a folder of the project nor in the "
            f"Hugging Face cache ({hub_cache()}). Fetch it once: "
            f"hf download {experiment.base_model}{revision}"
        )
    return snapshot


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """Return the cached snapshot of a hub model at a branch, tag or commit; None when it is not cached.

    Without a revision it is the commit that `main` pointed to when it was last fetched. The folder's
    name is that commit.
    """
    repository = f"models--{hub_id.replace('/', '--')}"
    commit = cached_commit(repository, revision)
    if commit is None:
        return None
    snapshot = hub_cache() / repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def cached_commit(repository: str, revision: str | None = None) -> str | None:
    """Return the commit that a branch or tag (``main``) of a cached repository pointed to when it was last fetched."""
    name = revision or "main"
    return name if _COMMIT.fullmatch(name) else _reference(hub_cache() / repository, name)


def hub_cache() -> Path:
    """Return the folder of the Hugging Face hub cache, by the same variables that huggingface_hub reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    return _home() / "hub"


def data_set_cache() -> Path:
    """Return the folder of the cache of `datasets`, by the same variables that it reads."""
    named = os.environ.get("HF_DATASETS_CACHE")
    return Path(named).expanduser() if named else _home() / "datasets"


def _home() -> Path:
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface"


def _reference(repository: Path, name: str) -> str | None:
    references = repository / "refs"
    file = references / name
    if ".." in Path(name).parts or not file.is_file():
        return None
    commit = file.read_text(encoding="ascii", errors="replace").strip()
    return commit if _COMMIT.fullmatch(commit) else None
