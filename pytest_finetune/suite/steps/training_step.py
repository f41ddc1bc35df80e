"""The adapter: reused when the store has it, else trained by whichever trainer is registered, verified and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.data.formatting import format_pair
from pytest_finetune.fingerprint import (
    adapter_digest,
    adapter_key,
    base_folder,
    digest,
    package_versions,
    sha256_hex,
)
from pytest_finetune.safetensors_check import delta_nonzero
from pytest_finetune.suite.progress import ProgressLine
from pytest_finetune.suite.steps import reuse, trainer_results
from pytest_finetune.suite.steps.engine import base_name, base_of, device_class, dtype_class
from pytest_finetune.suite.steps.planning import fit_of
from pytest_finetune.suite.steps.power_line import warn_before_training
from pytest_finetune.training.artifact import WHOLE_MODEL, is_whole_model
from pytest_finetune.training.difference import largest_difference
from pytest_finetune.training.request import TrainingRequest

if TYPE_CHECKING:
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.run import ExperimentRun


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter in the store; `seconds` and `peak_bytes` are those of its training."""

    path: Path
    key: str
    reused: bool
    seconds: float
    steps: int
    final_loss: float | None
    peak_bytes: int | None
    log: Sequence[Mapping[str, float]] = field(repr=False)

    def load(self, model: Any) -> Any:
        """Put the adapter on a base model of yours, with plain PEFT; a whole model's weights take its place."""
        if is_whole_model(self.path):
            from safetensors.torch import load_model

            load_model(model, str(self.path / WHOLE_MODEL))
            return model
        from peft import PeftModel

        return PeftModel.from_pretrained(model, str(self.path))


def adapter_of(run: ExperimentRun) -> Adapter:
    """Return the experiment's adapter and put down the training's facts."""
    _ = run.checked_data
    key = adapter_key_of(run)
    run.note(("key",), key.value)
    run.note(("key_fields",), key.fields)
    run.note(("key_changed",), _changed(run, key))
    entry = reuse.find(run, key)
    reused = entry is not None
    if entry is None:
        entry, reused = _train(run, key)
    run.session.store.remember(f"key-{run.experiment.name}", {"fields": key.fields, "key": key.value})
    run.note(("training",), reuse.facts(key, entry, reused=reused))
    return _adapter(run, entry, reused=reused)


def adapter_key_of(run: ExperimentRun) -> Key:
    """Return the key of the adapter that this experiment's training would make."""
    return adapter_key(
        run.experiment,
        _pairs(run),
        base_of(run),
        package_versions(),
        device_class(run),
        dtype_class(run),
        trainer=_trainers(run),
    )


def _pairs(run: ExperimentRun) -> tuple[Any, ...]:
    return tuple(format_pair(row, run.experiment.prompt) for row in run.train_rows)


def _trainers(run: ExperimentRun) -> str:
    """Name the registered trainers: another one never reuses this one's adapter."""
    names = []
    for implementation in run.session.config.hook.pytest_finetune_train.get_hookimpls():
        if implementation.plugin_name == "finetune-huggingface":
            continue
        file = Path(implementation.function.__code__.co_filename)
        content = sha256_hex(file.read_bytes())[:16] if file.is_file() else "?"
        names.append(f"{implementation.function.__module__}:{content}")
    return "+".join([*sorted(names), "trl"])


def _changed(run: ExperimentRun, key: Key) -> dict[str, list[Any]]:
    last = run.session.store.last(f"key-{run.experiment.name}")
    if last is None:
        return {}
    return {name: list(pair) for name, pair in key.differs_from(last["fields"]).items()}


def _train(run: ExperimentRun, key: Key) -> tuple[Entry, bool]:
    """Train under the key's lock; another process may have been first."""
    store = run.session.store
    line = ProgressLine(run.session.config, run.experiment.name)
    about: dict[str, Any] = {}
    before = store.read("adapters", key) if run.session.settings.retrain else None

    def fill(folder: Path) -> None:
        _fill(run, key, folder, about, line)
        if before is not None:
            run.note(("training", "retrained"), reuse.compared(run, before, folder))

    try:
        with store.lock("adapters", key, line.say):
            entry = None if run.session.settings.retrain else store.read("adapters", key)
            if entry is not None:
                return entry, True
            warn_before_training(run)
            _release(run)
            keep = store.replace if run.session.settings.retrain else store.commit
            return keep("adapters", key, fill, about), False
    finally:
        line.close()


def _fill(run: ExperimentRun, key: Key, folder: Path, about: dict[str, Any], line: ProgressLine) -> None:
    pairs = _pairs(run)
    held_out = _held_out(run)
    request = TrainingRequest(
        experiment=run.experiment,
        pairs=pairs,
        rows=tuple(row.place for row in run.train_rows),
        base=base_name(run),
        folder=folder,
        checkpoints=run.session.store.checkpoints(key),
        device=run.session.device,
        progress=line.show,
        max_truncated=run.contract.max_truncated or 0,
        fit=fit_of(run),
        held_out=held_out,
    )
    found = run.session.config.hook.pytest_finetune_train(request=request)
    result = trainer_results.checked(request, found)
    about.update(
        task=run.experiment.task,
        experiment=run.experiment.name,
        steps=result.steps,
        seconds=round(result.seconds, 3),
        final_loss=result.final_loss,
        log=[dict(entry) for entry in result.log],
        peak_bytes=result.peak_bytes,
        trainable=result.trainable,
        parameters=result.parameters,
        tokens=dict(result.tokens),
        notes=list(result.notes),
        measured=dict(result.measured),
        delta_nonzero=_changes(run, folder),
        held_out_loss=[dict(entry) for entry in result.held_out_loss],
        held_out_sha256=_digest_of(held_out),
        held_out_file_sha256=run.eval_rows.sha256,
    )


def _changes(run: ExperimentRun, folder: Path) -> bool | None:
    """Tell whether what was trained differs from the base at all; None when it cannot be told."""
    if not is_whole_model(folder):
        return delta_nonzero(folder)
    largest = largest_difference(folder, base_folder(run.experiment), common=True)
    return None if largest is None else largest > 0


def _held_out(run: ExperimentRun) -> tuple[Any, ...]:
    return tuple(format_pair(row, run.experiment.prompt) for row in run.eval_rows)


def _digest_of(pairs: Sequence[Any]) -> str:
    return digest([list(pair) for pair in pairs])


def _release(run: ExperimentRun) -> None:
    """Give the answering model's memory back: the training loads a base of its own."""
    for name in sorted(run.runtimes):
        run.runtime_named(name).release()


def _aged(run: ExperimentRun, about: Mapping[str, Any], *, reused: bool) -> list[str]:
    """Say when the held-out losses of a stored training are those of other rows than there are now."""
    if not reused or not about.get("held_out_loss"):
        return []
    if about.get("held_out_file_sha256") == run.eval_rows.sha256:  # the prompt is the same: it is in the key
        return []
    if about["held_out_sha256"] == _digest_of(_held_out(run)):
        return []
    return [
        "the held-out losses were taken on other rows: paths.eval_file has changed since this adapter was trained "
        "(pytest --finetune --finetune-retrain takes them anew)"
    ]


def _adapter(run: ExperimentRun, entry: Entry, *, reused: bool) -> Adapter:
    about = entry.about
    run.note(
        ("training",),
        {
            "reused": reused,
            "seconds": about["seconds"],
            "steps": about["steps"],
            "final_loss": about["final_loss"],
            "log": about["log"],
            "tokens": about["tokens"],
            "trainable": about["trainable"],
            "parameters": about["parameters"],
            "notes": [*about["notes"], *_aged(run, about, reused=reused)],
            "held_out_loss": about.get("held_out_loss", []),
            "delta_nonzero": about["delta_nonzero"],
            "peak_bytes": about["peak_bytes"],
            "adapter_sha256": adapter_digest(entry.path),
            "adapter_path": str(entry.path.relative_to(run.experiment.root))
            if entry.path.is_relative_to(run.experiment.root)
            else str(entry.path),
        },
    )
    run.note(("measured",), about.get("measured", {}))
    return Adapter(
        path=entry.path,
        key=entry.key,
        reused=reused,
        seconds=about["seconds"],
        steps=about["steps"],
        final_loss=about["final_loss"],
        peak_bytes=about["peak_bytes"],
        log=about["log"],
    )
