"""The adapter: reused when the store has it, else trained by whichever trainer is registered, verified and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.data.formatting import format_pair
from pytest_finetune.fingerprint import adapter_digest
from pytest_finetune.store import StoreError, is_full
from pytest_finetune.suite.jobs.agreement import as_made
from pytest_finetune.suite.jobs.requests import training
from pytest_finetune.suite.steps import reuse
from pytest_finetune.suite.steps.making import Lesson, Ordered, digest_of, made
from pytest_finetune.suite.steps.room import no_room
from pytest_finetune.suite.tracking import followed
from pytest_finetune.training.artifact import WHOLE_MODEL, is_whole_model

if TYPE_CHECKING:
    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.data_step import Data
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.suite.steps.replaying import Replayed, Replaying
    from pytest_finetune.yamlfile import JsonTree


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter in the store; `seconds` and `peak_bytes` are those of its training.

    `dev_loss` is its loss on the development rows, None where its trainer told none.
    """

    path: Path
    key: str
    reused: bool
    seconds: float
    steps: int
    final_loss: float | None
    peak_bytes: int | None
    log: Sequence[Mapping[str, float]] = field(repr=False)
    dev_loss: float | None = None

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
        if entry is not None:
            return Trained(key, entry, True)
        return self._train(key) if self._is_here else self._sent(key)

    def recorded(self, trained: Trained) -> Adapter:
        """Record a training as that of the adapter that is judged."""
        context, (key, entry, reused, compared) = self._context, trained
        context.store.remember(self._last, {"fields": key.fields, "key": key.value})
        if context.jobs is not None:  # a job tells the card that it found
            key = as_made(key, entry.fields)
            context.record(("key",), key.value)
            context.record(("key_fields",), key.fields)
        if compared is not None:
            context.record(("training", "retrained"), compared)
        context.record(("training",), reuse.facts(key, entry, reused=reused))
        return self._recorded(entry, reused=reused)

    def key(self, *, replay: bool = True) -> Key:
        """Return the key of the adapter that this experiment's training would make, or would without `replay`."""
        lesson = self._lesson if replay else dataclasses.replace(self._lesson, replay={})
        return lesson.key(self._context, self._engine)

    @cached_property
    def _lesson(self) -> Lesson:
        replay = self._replaying.key_fields if self._replaying else {}
        return Lesson(self._pairs(self._data.train), self._dev(), self._template(), replay)

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

    def _beside(self) -> tuple[Pair, ...]:
        """Return the development rows where nothing else is looked at: their loss is then taken after each epoch."""
        return () if self._data.dev is None or self._dev() else self._pairs(self._data.dev)

    def _train(self, key: Key) -> Trained:
        """Train under the key's lock; another process may have been first."""
        context = self._context
        store, line, retrain = context.store, context.line, context.settings.retrain
        about: dict[str, Any] = {}
        compared: Mapping[str, Any] | None = None
        before = store.read("adapters", key) if retrain else None
        replayed: Replayed | None = None

        def fill(folder: Path) -> None:
            nonlocal compared
            with followed(context, key.value) as tell:
                about.update(made(context, key, self._ordered(replayed), self._fit(), folder, tell))
            if before is not None:
                base, quantization = self._engine.the_base_model, context.experiment.quantization
                compared = reuse.compared(base, quantization, before, folder)

        try:
            with store.lock("adapters", key, line.say):
                entry = None if retrain else store.read("adapters", key)
                if entry is not None:
                    return Trained(key, entry, True)
                self._warn()
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

    @property
    def _is_here(self) -> bool:
        """Whether the training runs in this process; an adapter that is given is only taken."""
        return self._context.jobs is None or self._context.experiment.trained is not None

    def _sent(self, key: Key) -> Trained:
        """Let a job train, and take what it has made."""
        context = self._context
        assert context.jobs is not None
        replayed = None if self._replaying is None else self._replaying.made()
        longest = context.jobs.longest()

        def request() -> JsonTree:
            self._warn()
            return training(context.experiment, self._ordered(replayed), longest)

        try:
            with followed(context, key.value) as tell:
                return Trained(key, *context.jobs.made("adapters", key, request, tell))
        finally:
            context.line.close()

    def _warn(self) -> None:
        """Say, before a training and not where it was kept, what will not come of it."""
        warning = self._warning()
        if warning is not None:
            self._context.line.warn(warning)

    def _ordered(self, replayed: Replayed | None) -> Ordered:
        """Return the training as it is ordered, here or elsewhere."""
        data = self._data
        return Ordered(
            lesson=self._lesson,
            more=replayed.pairs if replayed else (),
            rows=(*(row.place for row in data.train), *(replayed.places if replayed else ())),
            replay=None if replayed is None else dict(replayed.facts),
            held_out=self._pairs(data.held_out) or self._beside(),
            held_out_file_sha256=data.held_out.sha256,
            max_truncated=data.contract.max_truncated or 0,
        )

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
            dev_loss=kept_loss(about),
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
        if about["held_out_sha256"] == digest_of(self._pairs(held_out)):
            return []
        return [
            "the held-out losses were taken on other rows: paths.eval_file has changed since this adapter was trained "
            "(pytest --finetune --finetune-retrain takes them anew)"
        ]


def _changed(key: Key, last: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """Return what differs from the key of the experiment's last training."""
    differs = {} if last is None else key.differs_from(last["fields"])
    return {name: list(pair) for name, pair in differs.items()}


def kept_loss(about: Mapping[str, Any]) -> float | None:
    """Return the loss on the development rows of the adapter that was kept: at its step, else at the last look."""
    looks = about.get("dev_loss", [])
    kept = [look["loss"] for look in looks if look["step"] == about.get("kept_step")]
    return next(iter([*kept, *(look["loss"] for look in looks[-1:])]), None)
