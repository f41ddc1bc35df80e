"""The adapter: reused when the store has it, else trained by whichever trainer is registered, verified and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.data.formatting import format_pair
from pytest_finetune.fingerprint import (
    adapter_digest,
    adapter_key,
    base_folder,
    digest,
    package_versions,
    sha256_hex,
)
from pytest_finetune.memory.hardware.detect import detect
from pytest_finetune.safetensors_check import delta_nonzero
from pytest_finetune.store import StoreError, is_full
from pytest_finetune.suite.steps import reuse, trainer_results
from pytest_finetune.suite.steps.engine import base_name
from pytest_finetune.suite.steps.room import no_room
from pytest_finetune.suite.tracking import followed
from pytest_finetune.training.artifact import WHOLE_MODEL, is_whole_model
from pytest_finetune.training.difference import largest_difference
from pytest_finetune.training.given import given_digest, take
from pytest_finetune.training.request import TrainingRequest

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.data_step import Data
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.suite.steps.replaying import Replayed, Replaying
    from pytest_finetune.training.request import Progress, TrainingResult


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


class Trained(NamedTuple):
    """The stored adapter of a key, whether it was there before, and how it differs from one that it replaced."""

    key: Key
    entry: Entry
    reused: bool
    compared: Mapping[str, Any] | None = None


class TrainingStep:
    """The adapter of one experiment: reused where the store has it, else trained.

    `fit` gives plan and budget to measure the training against; `warning` is what the user should read before it, and
    `replaying` what is taught besides the rows.
    """

    def __init__(
        self,
        context: Context,
        engine: Engine,
        data: Data,
        fit: Callable[[], Fit | None],
        warning: Callable[[], str | None],
        replaying: Replaying | None = None,
    ) -> None:
        self._context = context
        self._engine = engine
        self._data = data
        self._fit = fit
        self._warning = warning
        self._replaying = replaying

    def adapter(self) -> Adapter:
        """Return the adapter and record the facts of its training."""
        self.record_key(self.key())
        return self.recorded(self.trained())

    def record_key(self, key: Key) -> None:
        """Record the key of the adapter that is judged, and what differs from that of the last run."""
        context = self._context
        context.record(("key",), key.value)
        context.record(("key_fields",), key.fields)
        context.record(("key_changed",), _changed(key, context.store.last(self._last)))

    @property
    def _last(self) -> str:
        """The name under which the store remembers the last key of this experiment."""
        return f"key-{self._context.experiment.name}"

    def trained(self) -> Trained:
        """Return the stored adapter, trained now where there was none."""
        key = self.key()
        entry = reuse.find(self._context.settings, self._context.store, key)
        return self._train(key) if entry is None else Trained(key, entry, True)

    def recorded(self, trained: Trained) -> Adapter:
        """Record a training as that of the adapter that is judged."""
        context, (key, entry, reused, compared) = self._context, trained
        context.store.remember(self._last, {"fields": key.fields, "key": key.value})
        if compared is not None:
            context.record(("training", "retrained"), compared)
        context.record(("training",), reuse.facts(key, entry, reused=reused))
        return self._recorded(entry, reused=reused)

    def key(self, *, replay: bool = True) -> Key:
        """Return the key of the adapter that this experiment's training would make, or would without `replay`."""
        replaying = self._replaying if replay else None
        return adapter_key(
            self._context.experiment,
            [pair.fields() for pair in self._pairs(self._data.train)],
            self._engine.the_base_model,
            package_versions(),
            self._engine.the_device,
            self._engine.dtype,
            trainer=self._trainer(),
            template=self._template(),
            dev=[pair.fields() for pair in self._dev()],
            replay=replaying.key_fields if replaying else {},
        )

    def _trainer(self) -> str:
        """Name what makes the adapter: the trainers, or the very adapter that was given."""
        experiment = self._context.experiment
        return f"given:{given_digest(experiment)}" if experiment.trained else trainers(self._context.hooks)

    def _template(self) -> dict[str, Any]:
        """Return what the chat template adds to the key: nothing where it adds nothing to the rows."""
        experiment, tokenization = self._context.experiment, self._data.contract.tokenization
        chat = self._engine.chat(experiment)
        if chat is None:
            return {}
        given = experiment.prompt.chat_template_kwargs
        arguments: dict[str, Any] = {"chat_template_kwargs": given} if given else {}
        if experiment.training.assistant_turns == "all" and chat.ending:
            arguments["ending"] = chat.ending
        moved = tokenization is not None and any(one.moved for one in tokenization.counts(self._data.train))
        return {**arguments, **chat.date, **({"as_asked": True} if moved else {})}

    def _pairs(self, rows: Rows) -> tuple[Pair, ...]:
        experiment = self._context.experiment
        return tuple(format_pair(row, experiment.prompt, experiment.training.assistant_turns) for row in rows)

    def _dev(self) -> tuple[Pair, ...]:
        """Return the development rows where the adapter is chosen on them."""
        keep, dev = self._context.experiment.training.keep, self._data.dev
        return self._pairs(dev) if keep == "best" and dev is not None else ()

    def _train(self, key: Key) -> Trained:
        """Train under the key's lock; another process may have been first."""
        store, line, retrain = self._context.store, self._context.line, self._context.settings.retrain
        about: dict[str, Any] = {}
        compared: Mapping[str, Any] | None = None
        before = store.read("adapters", key) if retrain else None
        replayed: Replayed | None = None

        def fill(folder: Path) -> None:
            nonlocal compared
            about.update(self._fill(key, folder, replayed))
            if before is not None:
                base, quantization = self._engine.the_base_model, self._context.experiment.quantization
                compared = reuse.compared(base, quantization, before, folder)

        try:
            with store.lock("adapters", key, line.say):
                entry = None if retrain else store.read("adapters", key)
                if entry is not None:
                    return Trained(key, entry, True)
                warning = self._warning()
                if warning is not None:
                    line.warn(warning)
                replayed = None if self._replaying is None else self._replaying.made()
                # The training loads a base of its own.
                self._engine.release(sorted(self._engine.runtimes))
                entry = store.commit("adapters", key, fill, about, replacing=retrain)
                return Trained(key, entry, False, compared)
        except StoreError as error:
            if not is_full(error.__cause__):
                raise
            raise StoreError("\n  ".join([str(error), *no_room(store, key, self._fit())])) from error
        finally:
            line.close()

    def _fill(self, key: Key, folder: Path, replayed: Replayed | None) -> dict[str, Any]:
        """Train into a folder of the store, and return what is kept beside the adapter."""
        context, data = self._context, self._data
        held_out = self._pairs(data.held_out)
        with followed(context, key.value) as tell:
            result = self._trained(key, folder, held_out, replayed, tell)
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
            "held_out_loss": [dict(entry) for entry in result.held_out_loss],
            "dev_loss": [dict(entry) for entry in result.dev_loss],
            "kept_step": result.kept_step,
            **({} if replayed is None else {"replay": dict(replayed.facts)}),
            "held_out_sha256": _digest_of(held_out),
            "held_out_file_sha256": data.held_out.sha256,
        }

    def _trained(
        self,
        key: Key,
        folder: Path,
        held_out: tuple[Pair, ...],
        replayed: Replayed | None,
        tell: Callable[[Progress], None],
    ) -> TrainingResult:
        """Ask the trainers, or take the adapter that was given."""
        context, data = self._context, self._data
        more, places = (replayed.pairs, replayed.places) if replayed else ((), ())
        request = TrainingRequest(
            experiment=context.experiment,
            pairs=(*self._pairs(data.train), *more),
            rows=(*(row.place for row in data.train), *places),
            base=base_name(context.experiment),
            folder=folder,
            checkpoints=context.store.checkpoints(key),
            device=context.device,
            progress=tell,
            max_truncated=data.contract.max_truncated or 0,
            fit=self._fit(),
            held_out=held_out,
            dev=self._dev(),
        )
        given = context.experiment.trained
        trained = take(request) if given else context.hooks.pytest_finetune_train(request=request)
        return trainer_results.checked(request, trained)

    def _recorded(self, entry: Entry, *, reused: bool) -> Adapter:
        about, root = entry.about, self._context.experiment.root
        path = entry.path.relative_to(root) if entry.path.is_relative_to(root) else entry.path
        same = ("seconds", "steps", "final_loss", "log", "tokens", "trainable", "parameters")
        facts = {
            "reused": reused,
            **{name: about[name] for name in same},
            "notes": [*about["notes"], *self._aged(about, reused=reused)],
            "held_out_loss": about.get("held_out_loss", []),
            "dev_loss": about.get("dev_loss", []),
            "kept_step": about.get("kept_step"),
            "delta_nonzero": about["delta_nonzero"],
            "peak_bytes": about["peak_bytes"],
            "adapter_sha256": adapter_digest(entry.path),
            "adapter_path": str(path),
            **self._replay_facts(about),
        }
        self._context.record(("training",), facts)
        self._context.record(("measured",), about.get("measured", {}))
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

    def _replay_facts(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was replayed, and the key of the adapter of the same training without it."""
        if "replay" not in about:
            return {}
        return {"replay": {**about["replay"], "without_key": self.key(replay=False).value}}

    def _aged(self, about: Mapping[str, Any], *, reused: bool) -> list[str]:
        """Say when the held-out losses of a stored training are those of other rows than there are now."""
        if not reused or not about.get("held_out_loss"):
            return []
        held_out = self._data.held_out
        if about.get("held_out_file_sha256") == held_out.sha256:  # the prompt is the same: it is in the key
            return []
        if about["held_out_sha256"] == _digest_of(self._pairs(held_out)):
            return []
        return [
            "the held-out losses were taken on other rows: paths.eval_file has changed since this adapter was trained "
            "(pytest --finetune --finetune-retrain takes them anew)"
        ]


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


def _changed(key: Key, last: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Return what differs from the key of the experiment's last training."""
    differs = {} if last is None else key.differs_from(last["fields"])
    return {name: list(pair) for name, pair in differs.items()}


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


def _digest_of(pairs: Sequence[Pair]) -> str:
    return digest([pair.fields() for pair in pairs])
