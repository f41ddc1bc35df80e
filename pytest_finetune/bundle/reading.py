"""A bundle as it lies there: its manifest, its files, its record; and whether they are what was promoted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pytest_finetune import __version__
from pytest_finetune.answering.answers import AnswersError, read_answers
from pytest_finetune.bundle import format as bundle_manifest
from pytest_finetune.bundle.format import EXPERIMENT, MANIFEST, RECORD, SIGNATURE, BundleError, Manifest
from pytest_finetune.experiment import Experiment, load_experiment
from pytest_finetune.fingerprint import adapter_digest, sha256_of
from pytest_finetune.store.manifest import DefectError, check_adapter
from pytest_finetune.training.artifact import ADAPTER_CONFIG, MODEL_CONFIG, is_whole_model
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import Json


class Problem(NamedTuple):
    """One thing that is not as it was promoted: the file or the part, and what is wrong with it."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest could be read; its parts are read when they are asked for."""

    folder: Path
    manifest: Manifest
    names: frozenset[str] = field(repr=False)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record; BundleError when it is no JSON object."""
        try:
            found = json.loads((self.folder / RECORD).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{RECORD} cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise BundleError(f"{RECORD} is no record")
        return found

    @cached_property
    def experiment(self) -> Json:
        """The experiment that this bundle is about; BundleError when the record has none of that name."""
        named = [one for one in self.record["experiments"] if one["name"] == self.manifest.experiment]
        if len(named) != 1:
            raise BundleError(
                f"{RECORD} holds no experiment {self.manifest.experiment!r}, which {MANIFEST} names"
            )
        return named[0]  # type: ignore[no-any-return]

    @property
    def whole_model(self) -> bool:
        """Whether it holds a model that was trained in full, not an adapter."""
        return is_whole_model(self.folder)

    @property
    def signed(self) -> bool:
        """Whether there is a signature."""
        return SIGNATURE in self.names

    @property
    def of_the_hub(self) -> list[str]:
        """The files that came along from the Hub: they are not the bundle's, and take nothing from it."""
        return sorted(filter(bundle_manifest.of_the_hub, self.names - self.manifest.files.keys()))

    @property
    def same_version(self) -> bool:
        """Whether this version of the package wrote the record, so that its sentences can be compared."""
        return self.record.get("plugin_version") == __version__

    def resolved(self) -> Experiment:
        """Return the experiment as its file and the recorded overrides resolve; ExperimentError with its mistakes."""
        told = self.experiment
        file, overrides = told["config_file"], told["overrides"]
        return load_experiment(self.folder / EXPERIMENT, file, overrides, name=told["name"], bundled=True)

    def answers(self, experiment: Json, arm: str) -> list[dict[str, Any]]:
        """Return the raw answers of an arm; BundleError when they cannot be read."""
        name = experiment["arms"][arm]["outputs"]
        if name not in self.manifest.files:
            raise BundleError(f"{MANIFEST} does not list {name!r}, the answers of {arm}")
        try:
            return [asdict(answer) for answer in read_answers(self.folder / name)]
        except (OSError, UnicodeDecodeError, AnswersError) as error:
            raise BundleError(f"{name} cannot be read: {one_line(error, 200)}") from None


def open_bundle(folder: Path) -> Bundle:
    """Read the manifest and list the files; BundleError when it is not a bundle or its manifest was changed."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}") from None
    return Bundle(
        folder, bundle_manifest.parse(data), frozenset(name for name, _ in bundle_manifest.walk(folder))
    )


def file_problems(bundle: Bundle) -> list[Problem]:
    """Name every file that was changed, is missing or does not belong here."""
    found = []
    manifest = bundle.manifest
    for name, sha256 in manifest.files.items():
        if name not in bundle.names:
            found.append(Problem(name, "is missing"))
        elif sha256_of(bundle.folder / name, links=False) != sha256:
            found.append(Problem(name, "was changed: it does not match its digest in the manifest"))
    foreign = bundle.names - manifest.files.keys() - {MANIFEST, SIGNATURE, *bundle.of_the_hub}
    return [*found, *(Problem(name, "does not belong to the bundle") for name in sorted(foreign))]


def adapter_problems(bundle: Bundle) -> list[Problem]:
    """Name what is wrong with the adapter as a whole: it is another one, or it is not safe to load."""
    found, promoted = [], bundle.manifest.adapter_sha256
    if promoted != adapter_digest(bundle.folder):
        found.append(
            Problem(MANIFEST, f"its adapter digest {promoted[:12]} is not that of the adapter in the bundle")
        )
    files = bundle.manifest.files
    names = [
        name for name in files if name.endswith(".safetensors") or name in (ADAPTER_CONFIG, MODEL_CONFIG)
    ]
    try:
        check_adapter(bundle.folder, dict.fromkeys(names))
    except DefectError as defect:
        found.append(Problem("adapter", str(defect)))
    return found
