"""What a record says, in the flat words of a tracking server: parameters, metrics and tags."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pytest_finetune.publish.parcel import Parcel
from pytest_finetune.record import changes, reading
from pytest_finetune.record.reading import Json
from pytest_finetune.wording import one_line, visible

PREFIX: Final = "pytest_finetune."
MANIFEST_TAG: Final = f"{PREFIX}manifest"
LONGEST_PARAM: Final = 500  # what every server since the first takes; those of today take 6,000
_LONGEST_TAG: Final = 5000
_LONGEST_KEY: Final = 250
_COMMITS: Final = ("GITHUB_SHA", "CI_COMMIT_SHA")
_NOT_IN_A_KEY: Final = re.compile(r"[^\w.\- /]", re.ASCII)


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
    settings = changes.flat(reading.part(experiment, "config"))
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
    found = [*_scores(experiment), *_gains(experiment), *_memory(experiment), *_training(experiment)]
    return [metric for metric in found if math.isfinite(metric.value)]


def _scores(experiment: Json) -> Iterator[Metric]:
    for arm in reading.arms(experiment):
        facts = reading.part(experiment, "arms", arm)
        yield from _number(facts, "seconds", f"seconds/{arm}")
        for rule in reading.rules(experiment):
            score = reading.part(facts, "rules", rule)
            yield from _number(score, "rate", f"rate/{arm}/{rule}")
            yield from _ends(score, f"rate/{arm}/{rule}")


def _gains(experiment: Json) -> Iterator[Metric]:
    for pair in reading.comparisons(experiment):
        place = f"{reading.text(pair, 'rule')}/{reading.text(pair, 'against')}"
        yield from _number(pair, "gain", f"gain/{place}")
        yield from _ends(pair, f"gain/{place}")
        yield from _number(pair, "p_value", f"p_value/{place}")


def _memory(experiment: Json) -> Iterator[Metric]:
    memory = reading.part(experiment, "memory")
    for name in ("predicted_peak_bytes", "measured_peak_bytes", "budget_bytes"):
        yield from _number(memory, name, f"memory/{name}")


def _training(experiment: Json) -> Iterator[Metric]:
    training = reading.part(experiment, "training")
    for name in ("seconds", "steps", "final_loss", "trainable", "parameters"):
        yield from _number(training, name, f"training/{name}")
    for curve, name in (("log", "training/loss"), ("held_out_loss", "training/held_out_loss")):
        for point in reading.parts(training, curve):
            loss, step = reading.number(point, "loss"), reading.whole(point, "step")
            if loss is not None and step is not None:
                yield Metric(name, float(loss), step)


def _number(of: Json, key: str, name: str) -> Iterator[Metric]:
    value = reading.number(of, key)
    if value is not None:
        yield Metric(_key(name), float(value))


def _ends(of: Json, name: str) -> Iterator[Metric]:
    span = reading.span(of, "interval")
    if span is not None:
        yield Metric(_key(f"{name}/lower"), span[0])
        yield Metric(_key(f"{name}/upper"), span[1])


def tags(parcel: Parcel) -> dict[str, str]:
    """Return by what a run and a model version are found again: digests, key, verdict; in a CI job its commit."""
    manifest, experiment = parcel.bundle.manifest, parcel.experiment
    found: dict[str, Any] = {
        f"{PREFIX}key": experiment.get("key"),
        f"{PREFIX}adapter_sha256": parcel.adapter_sha256,
        MANIFEST_TAG: parcel.digest,
        f"{PREFIX}verdict": parcel.verdict,
        f"{PREFIX}task": experiment.get("task"),
        f"{PREFIX}base_model": manifest.base_model,
        f"{PREFIX}revision": manifest.revision,
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
