"""What a record says, in the flat words of a tracking server: parameters, metrics and tags."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pytest_finetune.fingerprint import flat
from pytest_finetune.publish.parcel import Parcel
from pytest_finetune.record.inputs import MemoryFacts, TrainingFacts
from pytest_finetune.record.lenient import Json, Span, whole
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.wording import one_line, visible

PREFIX: Final = "pytest_finetune."
MANIFEST_TAG: Final = f"{PREFIX}manifest"
LONGEST_PARAM: Final = 500  # what every server since the first takes; those of today take 6,000
_LONGEST_TAG: Final = 5000
_LONGEST_KEY: Final = 250
_COMMITS: Final = ("GITHUB_SHA", "CI_COMMIT_SHA")
_NOT_IN_A_KEY: Final = re.compile(r"[^\w.\- /]", re.ASCII)


_Told = tuple[str, float | None, int]  # a metric before it is known to be a number that a server takes


class Metric(NamedTuple):
    """One number; `step` counts within the training."""

    name: str
    value: float
    step: int = 0


def params(experiment: Json) -> dict[str, str]:
    """Flatten the resolved settings: ``lora.r`` is 8.

    >>> params({"config": {"lora": {"r": 8, "target_modules": ["q", "v"]}, "seed": None}})
    {'lora.r': '8', 'lora.target_modules': '["q", "v"]'}
    """
    settings = flat(RecordedExperiment.of(experiment).config.raw)
    return {
        _key(name): _param(value)
        for name, value in settings.items()
        if value is not None and not isinstance(value, Mapping)
    }


def _param(value: object) -> str:
    text = json.dumps(value) if isinstance(value, list) else str(value)
    return visible(text, keep="\n\t")[:LONGEST_PARAM]


def metrics(experiment: Json) -> list[Metric]:
    """Return every finite number that a reader compares runs by; nothing is computed here."""
    one = RecordedExperiment.of(experiment)
    found = [*_scores(one), *_gains(one), *_memory(one.memory), *_training(one.training)]
    return [
        Metric(_key(name), float(value), step)
        for name, value, step in found
        if value is not None and math.isfinite(value)
    ]


def _scores(experiment: RecordedExperiment) -> Iterator[_Told]:
    for arm in experiment.arms.values():
        yield f"seconds/{arm.name}", arm.seconds, 0
        for rule in experiment.rules:
            yield f"rate/{arm.name}/{rule}", arm.rules[rule].rate, 0
            yield from _ends(f"rate/{arm.name}/{rule}", arm.rules[rule].interval)


def _gains(experiment: RecordedExperiment) -> Iterator[_Told]:
    for pair in experiment.comparisons:
        place = f"{pair.rule}/{pair.against}"
        yield f"gain/{place}", pair.gain, 0
        yield from _ends(f"gain/{place}", pair.interval)
        yield f"p_value/{place}", pair.p_value, 0


def _memory(memory: MemoryFacts) -> Iterator[_Told]:
    yield "memory/predicted_peak_bytes", memory.predicted_peak_bytes, 0
    yield "memory/measured_peak_bytes", memory.measured_peak_bytes, 0
    yield "memory/budget_bytes", memory.budget_bytes, 0


def _training(training: TrainingFacts) -> Iterator[_Told]:
    yield "training/seconds", training.seconds, 0
    yield "training/steps", training.steps, 0
    yield "training/final_loss", training.final_loss, 0
    yield "training/trainable", training.trainable, 0
    yield "training/parameters", training.parameters, 0
    for curve, name in ((training.log, "training/loss"), (training.held_out_loss, "training/held_out_loss")):
        for point in curve:
            if (step := whole(point.step)) is not None:
                yield name, point.loss, step


def _ends(name: str, span: Span | None) -> Iterator[_Told]:
    if span is not None:
        yield f"{name}/lower", span[0], 0
        yield f"{name}/upper", span[1], 0


def tags(parcel: Parcel) -> dict[str, str]:
    """Return by what a run and a model version are found again: digests, key, verdict; in a CI job its commit."""
    manifest, experiment = parcel.bundle.manifest, parcel.experiment
    file = manifest.tree.get("gguf") or {}
    found = {
        f"{PREFIX}key": experiment.get("key"),
        f"{PREFIX}adapter_sha256": parcel.adapter_sha256,
        MANIFEST_TAG: parcel.digest,
        f"{PREFIX}verdict": parcel.verdict,
        f"{PREFIX}task": experiment.get("task"),
        f"{PREFIX}base_model": manifest.base_model,
        f"{PREFIX}revision": manifest.revision,
        f"{PREFIX}gguf": file.get("quantization"),
        f"{PREFIX}gguf_sha256": file.get("sha256"),
        f"{PREFIX}version": parcel.bundle.record.get("plugin_version"),
        "mlflow.source.git.commit": next(filter(None, map(os.environ.get, _COMMITS)), None),
    }
    return {name: one_line(value, _LONGEST_TAG) for name, value in found.items() if value is not None}


def note(parcel: Parcel) -> str:
    """Return the decision note, which the server shows as the run's description."""
    text = (parcel.folder / "decision.md").read_text(encoding="utf-8")
    return text if len(text) <= _LONGEST_TAG else text[: _LONGEST_TAG - 4] + "\n..."


def name_of(parcel: Parcel) -> str:
    """Return the task as the name of an experiment and of a registered model, where / and : mean something.

    A quote would end the name in the server's own search language.
    """
    task = one_line(parcel.experiment.get("task") or parcel.experiment["name"], 200)
    return re.sub(r"[/:'\"`\\%]", "-", task)


def _key(name: str) -> str:
    """Make a name that every server takes as a key; what it refuses becomes an underscore.

    >>> _key("rate/tuned@general/label[high]")
    'rate/tuned_general/label_high_'
    """
    parts = (part.strip(". ") or "_" for part in _NOT_IN_A_KEY.sub("_", name).split("/"))
    return "/".join(parts)[:_LONGEST_KEY]
