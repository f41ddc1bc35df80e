"""What a training is asked for, wherever it runs: its key, the training itself, and what is kept beside the adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.fingerprint import adapter_key, base_folder, digest, package_versions, sha256_hex
from pytest_finetune.memory.hardware.detect import detect
from pytest_finetune.safetensors_check import delta_nonzero
from pytest_finetune.suite.steps import trainer_results
from pytest_finetune.suite.steps.engine import base_name
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.training.difference import largest_difference
from pytest_finetune.training.given import given_digest, take
from pytest_finetune.training.request import TrainingRequest

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.training.request import Progress, TrainingResult
    from pytest_finetune.yamlfile import Json


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an adapter learns, as far as its key goes: rows as formatted, and what the chat template adds to them."""

    pairs: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    template: Json
    replay: Json = field(default_factory=dict)

    def key(self, context: Context, engine: Engine) -> Key:
        """Return the key of the adapter that this training makes in this environment."""
        experiment = context.experiment
        trainer = f"given:{given_digest(experiment)}" if experiment.trained else trainers(context.hooks)
        return adapter_key(
            experiment,
            [pair.fields() for pair in self.pairs],
            engine.the_base_model,
            package_versions(),
            engine.the_device,
            engine.dtype,
            trainer=trainer,
            template=self.template,
            dev=[pair.fields() for pair in self.dev],
            replay=self.replay,
        )


@dataclass(frozen=True, slots=True)
class Ordered:
    """A training as it is ordered: its lesson, `more` rows that are replayed, the places of both, and more facts.

    `replay` is what the record says of what is replayed, None where nothing is.
    `held_out_file_sha256` is the checksum of the file that `held_out` was read from; it is empty where nothing is held
    out and development rows stand there.
    """

    lesson: Lesson
    rows: tuple[str, ...]
    held_out: tuple[Pair, ...]
    held_out_file_sha256: str
    max_truncated: int
    more: tuple[Pair, ...] = ()
    replay: Json | None = None

    def losses(self, result: TrainingResult) -> dict[str, list[dict[str, float]]]:
        """Return the losses of a training on rows that it was not taught, by what those rows are."""
        beside, dev = ([dict(entry) for entry in told] for told in (result.held_out_loss, result.dev_loss))
        if self.held_out_file_sha256:
            return {"held_out_loss": beside, "dev_loss": dev}
        return {"held_out_loss": [], "dev_loss": dev or beside}


def made(
    context: Context,
    key: Key,
    ordered: Ordered,
    fit: Fit | None,
    folder: Path,
    tell: Callable[[Progress], None],
) -> dict[str, Any]:
    """Train into a folder of the store, and return what is kept beside the adapter."""
    result = _trained(context, key, ordered, fit, folder, tell)
    context.clock.add(result.timings)
    return {
        "task": context.experiment.task,
        "experiment": context.experiment.name,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "final_loss": result.final_loss,
        "log": [dict(entry) for entry in result.log],
        "peak_bytes": result.peak_bytes,
        "trainable": result.trainable,
        "parameters": result.parameters,
        "tokens": dict(result.tokens),
        "notes": [*result.notes, *_unchosen(context.experiment, result.kept_step)],
        "measured": _with_card(result.measured, context),
        "delta_nonzero": _changes(context.experiment, folder),
        **ordered.losses(result),
        "kept_step": result.kept_step,
        **({} if ordered.replay is None else {"replay": dict(ordered.replay)}),
        "held_out_sha256": digest_of(ordered.held_out),
        "held_out_file_sha256": ordered.held_out_file_sha256,
    }


def _trained(
    context: Context,
    key: Key,
    ordered: Ordered,
    fit: Fit | None,
    folder: Path,
    tell: Callable[[Progress], None],
) -> TrainingResult:
    """Ask the trainers, or take the adapter that was given."""
    request = TrainingRequest(
        experiment=context.experiment,
        pairs=(*ordered.lesson.pairs, *ordered.more),
        rows=ordered.rows,
        base=base_name(context.experiment),
        folder=folder,
        checkpoints=context.store.checkpoints(key),
        device=context.device,
        progress=tell,
        max_truncated=ordered.max_truncated,
        fit=fit,
        held_out=ordered.held_out,
        dev=ordered.lesson.dev,
    )
    given = context.experiment.trained
    trained = take(request) if given else context.hooks.pytest_finetune_train(request=request)
    return trainer_results.checked(request, trained)


def trainers(hooks: HookRelay) -> str:
    """Name the registered trainers, by the file each stands in and what it says of itself as its `version`.

    Another one never reuses this one's adapter.
    """
    names = []
    for implementation in hooks.pytest_finetune_train.get_hookimpls():
        if implementation.plugin_name == "finetune-huggingface":
            continue
        file = Path(implementation.function.__code__.co_filename)
        content = sha256_hex(file.read_bytes())[:16] if file.is_file() else "?"
        version = getattr(implementation.function, "version", "")
        told = f":{version}" if version else ""
        names.append(f"{implementation.function.__module__}:{content}{told}")
    return "+".join([*sorted(names), "trl"])


def digest_of(pairs: Sequence[Pair]) -> str:
    """Return the digest of rows as they are formatted."""
    return digest([pair.fields() for pair in pairs])


def _unchosen(experiment: Experiment, kept_step: int | None) -> list[str]:
    """Say when a trainer of one's own did not choose where it should have."""
    if experiment.training.keep == "last" or experiment.trained or kept_step is not None:
        return []
    return [
        "training.keep is best, and this trainer chose nothing on the development rows: it kept its last adapter"
    ]


def _changes(experiment: Experiment, folder: Path) -> bool | None:
    """Tell whether what was trained differs from the base at all; None when it cannot be told."""
    if not is_whole_model(folder):
        return delta_nonzero(folder)
    largest = largest_difference(folder, base_folder(experiment), common=True)
    return None if largest is None else largest > 0


def _with_card(measured: Mapping[str, int], context: Context) -> dict[str, Any]:
    """Name the card beside what was measured on it: a number of one card is no measure of another."""
    card = detect(context.device, context.store.root)
    return {**measured, **({"measured_card": card.name} if measured and card.comparable else {})}
