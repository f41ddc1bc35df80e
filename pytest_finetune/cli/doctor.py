"""``pytest-finetune doctor``: is everything here that a training and its judgement need?"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.project import Project, folder_of
from pytest_finetune.data.contract import ContractError
from pytest_finetune.data.data_sets import is_here
from pytest_finetune.errors import lacking
from pytest_finetune.experiment import Experiment, ExperimentError, GgufSettings
from pytest_finetune.experiment.reading import located
from pytest_finetune.fingerprint import ABSENT, BaseModelError, base_folder, installed_version
from pytest_finetune.fingerprint.hub import hub_cache
from pytest_finetune.memory.hardware.detect import detect, disk_free_bytes, torch_build
from pytest_finetune.memory.hardware.sizes import GiB
from pytest_finetune.store import StoreError
from pytest_finetune.suite.steps.premises import problems
from pytest_finetune.suite.steps.runtime_findings import working_tools
from pytest_finetune.wording import counted, size

HELP: Final = "what is here and what is missing: packages, card, base model, disk, store; a line each"
DESCRIPTION: Final = (
    "Look at everything that a training and its judgement need, and say for each that it is ok or the one thing to "
    "do. Nothing is loaded, sent or changed."
)
OK, TO_DO, NOTE = "ok", "to do", "note"
FAULTS: Final = (
    ("torch", "<2.10", "loading weights can run code (CVE-2026-24747, CVE-2025-32434)"),
    ("transformers", "<5.3", "loading a configuration can run code (CVE-2026-4372)"),
    ("peft", "<0.20", "an adapter's configuration can import a module (peft #3090)"),
    ("jinja2", "<3.1.6", "a chat template can leave its sandbox (CVE-2025-27516)"),
)
"""Versions with a known fault: the package, which versions, and what they do."""
_PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "jinja2",
)
_LITTLE_DISK: Final = 5 * GiB


class Found(NamedTuple):
    """One line of the answer: what was looked at, how it stands, and what was found or is to be done."""

    what: str
    state: str
    told: str


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)


def run(args: argparse.Namespace) -> Answer:
    """Answer with no when there is anything to do."""
    found = [*_environment(), *_machine(folder_of(args)), *_project(args)]
    to_do = sum(one.state == TO_DO for one in found)
    summary = "everything is here" if not to_do else f"{counted(to_do, 'thing')} to do"
    lines = [*columns(("", "", ""), [(one.state, one.what, one.told) for one in found])[1:], "", summary]
    return Answer(lines, {"found": [one._asdict() for one in found], "to_do": to_do}, yes=not to_do)


def _environment() -> Iterator[Found]:
    yield Found("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    absent = lacking("torch", "transformers", "peft", "trl", "accelerate", "datasets")
    if absent:
        yield Found("packages", TO_DO, f"{absent} (contracts, verify, history and compare work without)")
    versions = {name: found for name in _PACKAGES if (found := installed_version(name)) != ABSENT}
    if versions:
        yield Found("packages", OK, ", ".join(f"{name} {found}" for name, found in versions.items()))
    for name, faulty, fault in FAULTS:
        if name in versions and Version(versions[name]) in SpecifierSet(faulty, prereleases=True):
            newer = faulty.replace("<", ">=")
            told = f"{versions[name]}: {fault}; install {name}{newer}"
            yield Found(name, TO_DO, told)


def _machine(root: Path) -> Iterator[Found]:
    budget = detect("auto", root)
    if budget.device == "cpu":
        build = torch_build()
        why = (
            "torch is built for the CPU"
            if build and not (build.get("cuda") or build.get("hip"))
            else "none was found"
        )
        told = f"no accelerator ({why}): training runs on {budget.name}, {size(budget.total_bytes)} of RAM"
        yield Found("card", NOTE, told)
    else:
        crowd = budget.crowded()
        told = f"{budget.name}, {size(budget.usable_bytes)} usable"
        yield Found("card", NOTE if crowd else OK, f"{told}; {crowd}" if crowd else told)
    free = disk_free_bytes(root)
    state = TO_DO if free < _LITTLE_DISK else OK
    told = f"{size(free)} free" + (
        "; make room: checkpoints and adapters need more" if state == TO_DO else ""
    )
    yield Found("disk", state, told)
    cache = hub_cache()
    cached = sum(1 for _ in cache.glob("models--*")) if cache.is_dir() else 0
    offline = " (HF_HUB_OFFLINE is set: nothing is fetched)" if os.environ.get("HF_HUB_OFFLINE") else ""
    yield Found("hub cache", OK, f"{counted(cached, 'model')} in {cache}{offline}")


def _project(args: argparse.Namespace) -> Iterator[Found]:
    try:
        project = Project.of(args)
    except ExperimentError as error:
        yield Found("experiment", TO_DO, str(error))
        return
    experiment = project.experiment
    yield Found(
        "experiment",
        OK,
        f"{experiment.file}: {experiment.task}, {experiment.peft_method} on {experiment.base_model}",
    )
    yield _base(experiment)
    for path, text in problems(experiment):
        yield Found("settings", TO_DO, located(experiment, path, text))
    shipped = (one for one in experiment.runtime_settings.values() if isinstance(one, GgufSettings))
    yield from dict.fromkeys(map(_llama_cpp, shipped))
    yield _rows(project)
    yield _store(project)


def _base(experiment: Experiment) -> Found:
    try:
        folder = base_folder(experiment)
    except BaseModelError:
        return Found("base model", TO_DO, f"{experiment.base_model} is not here: pytest-finetune fetch")
    if not folder.is_dir():
        return Found(
            "base model", TO_DO, f"there is no folder {str(folder)!r}: correct base_model, or make it"
        )
    return Found("base model", OK, str(folder))


def _llama_cpp(settings: GgufSettings) -> Found:
    try:
        tools = working_tools(settings.server)
    except AnsweringError as error:
        return Found("llama.cpp", TO_DO, "; ".join(line.strip() for line in str(error).splitlines()))
    return Found("llama.cpp", OK, f"{tools.release} in {tools.server.parent}")


def _rows(project: Project) -> Found:
    paths = project.experiment.paths
    absent = [name for name in paths.of_rows().values() if not is_here(name)]
    if absent:
        return Found("rows", TO_DO, f"{absent[0]} is not here: pytest-finetune fetch")
    try:
        train, held_out = (len(project.rows(file, "rows")) for file in (paths.train_file, paths.eval_file))
    except (ContractError, StoreError) as error:
        return Found("rows", TO_DO, str(error))
    return Found("rows", OK, f"{train} to train on, {held_out} held out; `pytest` checks them")


def _store(project: Project) -> Found:
    root = project.store.root
    near = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(near, os.W_OK):
        return Found("store", TO_DO, f"{near} cannot be written to: name another with --finetune-store")
    entries = project.store.entries if root.is_dir() else lambda kind: ()
    held = ", ".join(counted(len(entries(f"{kind}s")), kind) for kind in ("adapter", "record"))
    return Found("store", OK, f"{held} in {root}")
