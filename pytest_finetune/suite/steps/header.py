"""What is known of an experiment before anything runs: its configuration, checksums, charter, environment and rules."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune import __version__
from pytest_finetune.answering.arm_plans import plan_facts, planned
from pytest_finetune.data.charter import Charter
from pytest_finetune.data.data_sets import digest_of, is_data_set
from pytest_finetune.fingerprint import package_versions
from pytest_finetune.memory.hardware.detect import detect

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.suite.context import Context

PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "tokenizers",
    "pytest",
    "pytest-html",
)


def facts(
    experiment: Experiment, hardware: Mapping[str, Any] | None, rules: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the parts that open an experiment's record; `hardware` is None where no model runs."""
    yield ("task",), experiment.task
    yield ("config",), experiment.resolved
    yield ("config_file",), experiment.file
    yield ("overrides",), dict(experiment.overrides)
    yield ("checksums",), _checksums(experiment)
    yield ("charter",), _charter(experiment)
    yield ("environment",), environment()
    if hardware is not None:
        yield ("hardware",), hardware
    yield ("planned_arms",), plan_facts(planned(experiment))
    for name, rule in rules.items():
        yield ("rules", name), rule


def _checksums(experiment: Experiment) -> dict[str, Any]:
    paths = experiment.paths
    files = {"experiment": experiment.file, "train": paths.train_file, "eval": paths.eval_file}
    if paths.dev_file:
        files["dev"] = paths.dev_file
    if paths.contract_file:
        files["contract"] = paths.contract_file
    if experiment.drift.prompts:
        files["neutral"] = experiment.drift.prompts
    found: dict[str, Any] = {name: _checksum(experiment, relative) for name, relative in files.items()}
    if paths.suites:
        found["suites"] = {name: _checksum(experiment, relative) for name, relative in paths.suites.items()}
    return found


def _checksum(experiment: Experiment, relative: str) -> dict[str, Any]:
    facts = {"path": relative, "sha256": digest_of(experiment.root, relative)}
    return {**facts, "data_set": True} if is_data_set(experiment.root / relative, relative) else facts


def _charter(experiment: Experiment) -> dict[str, Any]:
    findings = Charter(experiment.charter).findings()
    return {**asdict(experiment.charter), "findings": [finding.as_json() for finding in findings]}


def environment() -> dict[str, Any]:
    """Return the versions of Python, of the platform, and of the packages that a record names."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        # Ours is told by the code that runs: an editable install keeps the metadata of the day it was made.
        "packages": {**package_versions(PACKAGES), "pytest-finetune": __version__},
    }


def hardware(context: Context) -> dict[str, Any]:
    """Look at the device: the leased one, or before there is a lease, the first; waits for none."""
    chosen = context.chosen
    seen = detect(chosen.known, context.store.root, headroom=context.headroom).as_json()
    return seen if chosen.lease is None else {**seen, "lease": chosen.lease.as_json()}
