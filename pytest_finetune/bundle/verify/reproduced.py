"""Give some of a bundle's answers again: its adapter on its base, the recorded prompts, in the recorded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.arm_plans import TUNED
from pytest_finetune.answering.prompts import Prompted, Rendered
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.bundle.verify.served_again import served_again
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.fingerprint import package_versions
from pytest_finetune.memory.hardware.detect import accelerator, detect
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.experiment import Experiment


class Different(NamedTuple):
    """A row that is answered otherwise than recorded."""

    row: str
    recorded: str
    now: str


@dataclass(frozen=True, slots=True)
class Reproduced:
    """The finding: `asked` of `total` rows were asked again; `elsewhere` maps what differs from the run to both."""

    asked: Sequence[str]
    total: int
    different: Sequence[Different]
    elsewhere: Mapping[str, tuple[object, object]]


def spread(total: int, count: int) -> list[int]:
    """Choose `count` of `total` positions, evenly and always the same.

    >>> spread(180, 5)
    [18, 54, 90, 126, 162]
    """
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def base_differs(recorded: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Name each part of a base model whose digest is not the recorded one, with both."""
    names = sorted(recorded.keys() | here.keys())
    pairs = ((name, recorded.get(name, "none"), here.get(name, "none")) for name in names)
    return [f"{name}: recorded {old[:12]}, here {new[:12]}" for name, old, new in pairs if old != new]


def reproduced(bundle: Bundle, experiment: Experiment, base: Path | None, count: int) -> Reproduced:
    """Ask the tuned model `count` held-out rows again; AnsweringError when it cannot answer.

    It is the adapter on `base`, or without one the GGUF file of the bundle, through its server.
    """
    recorded = [Answer(**answer) for answer in bundle.answers(bundle.experiment, TUNED)]
    chosen = spread(len(recorded), count)
    if base is None:
        given, elsewhere = served_again(bundle, experiment, [recorded[at] for at in chosen])
    else:
        given, elsewhere = _on_base(bundle, experiment, base, recorded, chosen)
    pairs = [(recorded[at], now) for at, now in zip(chosen, given, strict=True)]
    return Reproduced(
        asked=[old.id for old, _ in pairs],
        total=len(recorded),
        different=[
            Different(old.id, old.written, now.written) for old, now in pairs if old.written != now.written
        ],
        elsewhere=elsewhere,
    )


def _on_base(
    bundle: Bundle, experiment: Experiment, base: Path, recorded: Sequence[Answer], chosen: Sequence[int]
) -> tuple[list[Answer], dict[str, tuple[object, object]]]:
    """Let the adapter on its base answer, in the batches of the run."""
    device = accelerator()
    runtime = TransformersRuntime(
        str(base),
        device=device,
        quantization=experiment.quantization,
        trust_remote_code=experiment.trust_remote_code,
        attention=experiment.attn_implementation,
    )
    prompts = [_prompted(answer, chat=experiment.prompt.template == CHAT) for answer in recorded]
    generation = replace(experiment.generation, constrain=None)
    given = runtime.answer_again(prompts, chosen, generation, bundle.folder)
    return given, _elsewhere(bundle.experiment, device)


def _prompted(answer: Answer, *, chat: bool) -> Prompted:
    return Prompted(answer.id, answer.line, Rendered(answer.prompt) if chat else answer.prompt)


def _elsewhere(experiment: Json, device: str) -> dict[str, tuple[object, object]]:
    """Return what the answers depend on beside model, prompts and settings, where it is not as it was in the run."""
    names = ("torch", "transformers", "peft")
    versions = experiment["environment"]["packages"]
    here: dict[str, object] = {**package_versions(names), **_hardware(device)}
    there = {name: versions.get(name) for name in names}
    there |= {"runtime": experiment["arms"][TUNED]["runtime"], "device": experiment["hardware"]["device"]}
    there["card"] = experiment["hardware"]["name"] if there["device"] != "cpu" else None
    here["runtime"] = f"transformers {here['transformers']}"
    return {name: (there[name], here[name]) for name in there if there[name] != here[name]}


def _hardware(device: str) -> dict[str, object]:
    found = detect(device, Path.cwd())
    return {"device": found.device, "card": found.name if found.device != "cpu" else None}
