"""``pytest-finetune fetch``: bring the base models that an experiment names into the hub's cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.project import Project
from pytest_finetune.errors import lacking
from pytest_finetune.experiment import Experiment
from pytest_finetune.fingerprint.hub import cached_snapshot
from pytest_finetune.wording import one_line, size

HELP: Final = "bring the base model that the experiment names into the hub's cache"
DESCRIPTION: Final = (
    "Download the base model of an experiment from the Hugging Face hub: safetensors, configuration, tokenizer; no "
    "pickles and, unless trust_remote_code is true, no code. What is cached already is not loaded again."
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
    """Fetch the base, unless it is a folder of the project."""
    experiment = Project.of(args).experiment
    local = experiment.local_base()
    if local is not None:
        told = f"{experiment.base_model} is a folder of the project: nothing to fetch"
        return Answer([told], {"base_model": experiment.base_model, "folder": str(local), "fetched": False})
    before = cached_snapshot(experiment.base_model, experiment.revision)
    folder = _download(experiment)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    told = f"{experiment.base_model}: {size(held)} in {folder}"
    facts = {"base_model": experiment.base_model, "folder": str(folder), "bytes": held}
    return Answer([told], {**facts, "fetched": before != folder})


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
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise CommandError(f"{name} could not be fetched{offline}: {one_line(error)[:300]}") from None
