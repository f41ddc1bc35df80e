"""``pytest-finetune fetch``: bring what an experiment names, its base and its data sets, into the hub's caches."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.project import Project
from pytest_finetune.data.data_sets import DataSetError, fetch_data_set
from pytest_finetune.errors import lacking
from pytest_finetune.experiment import Experiment
from pytest_finetune.experiment.data_sets import hub_data_set
from pytest_finetune.fingerprint.hub import cached_snapshot, hub_cache
from pytest_finetune.memory.hardware.detect import disk_free_bytes
from pytest_finetune.store import is_full
from pytest_finetune.wording import one_line, size

HELP: Final = "bring the base model and the data sets that the experiment names into the hub's caches"
DESCRIPTION: Final = (
    "Download the base model of an experiment from the Hugging Face hub: safetensors, configuration, tokenizer; no "
    "pickles and, unless trust_remote_code is true, no code. What is cached already is not loaded again. Data sets of "
    "the hub under `paths` are brought as well."
)
_WANTED: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
)
_UNWANTED: Final = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "onnx/*", "original/*", "optimizer*")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)


def run(args: argparse.Namespace) -> Answer:
    """Fetch the base, unless it is a folder of the project, and the data sets of the hub."""
    experiment = Project.of(args).experiment
    data_sets = {name: str(_data_set(name)) for name in _named(experiment)}
    base = _base(experiment)
    lines = [*base.lines, *(f"{name}: in {folder}" for name, folder in data_sets.items())]
    return Answer(lines, {**base.tree, "data_sets": data_sets})


def _named(experiment: Experiment) -> list[str]:
    return sorted({name for name in experiment.paths.of_rows().values() if hub_data_set(name)})


def _data_set(named: str) -> Path:
    try:
        return fetch_data_set(named).files[0].parent
    except DataSetError as error:
        raise CommandError(str(error)) from None


def _base(experiment: Experiment) -> Answer:
    local = experiment.local_base()
    if local is not None and not local.is_dir():
        raise CommandError(
            f"there is no folder {str(local)!r}, and a name of the hub is ORG/NAME: correct base_model"
        )
    if local is not None:
        told = f"{experiment.base_model} is a folder of the project: nothing to fetch"
        return Answer([told], {"base_model": experiment.base_model, "folder": str(local), "fetched": False})
    before = cached_snapshot(experiment.base_model, experiment.revision)
    folder = _download(experiment)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    told = f"{experiment.base_model}: {size(held)} in {folder}"
    facts = {"base_model": experiment.base_model, "folder": str(folder), "bytes": held}
    return Answer([told], {**facts, "fetched": before != folder})


def _no_room(name: str) -> str:
    free = size(disk_free_bytes(hub_cache()))
    return (
        f"{name} could not be fetched: the disk of the hub's cache is full ({free} are free on that of {hub_cache()}): "
        "make room there, or name a folder on another disk in HF_HOME, and fetch again; what came whole is kept"
    )


def _download(experiment: Experiment) -> Path:
    if absent := lacking("huggingface_hub"):
        raise CommandError(f"fetching needs {absent}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = experiment.base_model, experiment.revision
    code = ("*.py",) if experiment.trust_remote_code else ()
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=[*_WANTED, *code], ignore_patterns=list(_UNWANTED)
            )
        )
    except GatedRepoError:
        raise CommandError(
            f"{name} asks for its licence to be accepted: do so on its page, then `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise CommandError(f"{name} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise CommandError(
            f"there is no model {name!r} that this token can see: correct base_model, or `hf auth login`"
        ) from None
    except ValueError as error:  # a name that cannot be a repository's
        raise CommandError(
            f"{name!r} is no folder of the project and no name of the hub: {one_line(error)}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if is_full(error):
            raise CommandError(_no_room(name)) from None
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise CommandError(f"{name} could not be fetched{offline}: {one_line(error)[:300]}") from None
