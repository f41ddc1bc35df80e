"""The base's own answers to other prompts, mixed into the training so that the base is not forgotten."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.data.formatting import format_pair
from pytest_finetune.data.replay import chosen, replay_prompts, with_answer
from pytest_finetune.fingerprint import digest
from pytest_finetune.record.summary import RUN
from pytest_finetune.suite.steps.answering import answered
from pytest_finetune.wording import counted

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.experiment import Experiment, Replay
    from pytest_finetune.store import Store
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.answering import ResolvedArm, Stored
    from pytest_finetune.suite.steps.engine import Engine

MOST_NEW_TOKENS: Final = 256
"""What the base may take for an answer; one that is cut is not taught, as it would teach to stop anywhere."""


class Replayed(NamedTuple):
    """What is taught besides the task's rows, the places of it, and what the record says of it."""

    pairs: tuple[Pair, ...]
    places: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Replaying:
    """What a training replays; `ask` lets the base answer prompts, each asked once and kept in the store."""

    experiment: Experiment
    replay: Replay
    rows: Rows
    contract: Contract
    taught: int
    ask: Callable[[Sequence[Prompted]], Stored]

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        contract: Contract,
        train: Rows,
        ask: Callable[[Sequence[Prompted]], Stored],
    ) -> Replaying | None:
        """Return what an experiment replays; None where it asks for nothing of the kind, or trains nothing."""
        replay = experiment.training.replay
        if replay is None or experiment.trained:
            return None
        rows = chosen(replay_prompts(experiment.root, replay), len(train), replay.share)
        return cls(experiment, replay, rows, contract, len(train), ask)

    @property
    def key_fields(self) -> dict[str, Any]:
        """What stands for it in the adapter's key: the answers follow from the prompts and the base."""
        prompts = [asked.fields() for asked in self._prompts]
        return {
            "prompts": {"count": len(prompts), "sha256": digest(prompts)},
            "max_new_tokens": MOST_NEW_TOKENS,
            "runtime": self.experiment.runtimes[0],
        }

    @property
    def longest_tokens(self) -> int:
        """What the longest replayed row can need; 0 where tokens cannot be counted."""
        tokenization = self.contract.tokenization
        if tokenization is None:
            return 0
        longest = max((count.prompt for count in tokenization.counts(self.rows)), default=0)
        return min(tokenization.max_length, longest + MOST_NEW_TOKENS)

    def made(self) -> Replayed:
        """Return what is taught; fails where the base gives no answer that can be."""
        stored = self.ask(self._prompts)
        rows = [with_answer(row, stored.answers[row.id].response) for row in self.rows]
        pairs = [format_pair(row, self.experiment.prompt) for row in rows]
        whole = [_whole(stored.answers[row.id]) for row in rows]
        fits = self._fit(pairs)
        kept = [i for i in range(len(rows)) if whole[i] and fits[i]]
        if not kept:
            pytest.fail(
                f"training.replay: none of the base's {counted(len(rows), 'answer')} can be taught: "
                f"{whole.count(False)} are empty or cut at {MOST_NEW_TOKENS} tokens, {fits.count(False)} are longer "
                "than training.max_seq_length; name prompts with short answers under training.replay.prompts, or "
                "leave replay out",
                pytrace=False,
            )
        facts = {
            "prompts": self.replay.prompts,
            "rows": len(kept),
            "left_out": len(rows) - len(kept),
            "share": round(len(kept) / (len(kept) + self.taught), 4),
            "outputs_key": stored.key,
        }
        return Replayed(tuple(pairs[i] for i in kept), tuple(rows[i].place for i in kept), facts)

    @property
    def _prompts(self) -> tuple[Prompted, ...]:
        return arm_prompts(self.rows, self.experiment.prompt)

    def _fit(self, pairs: Sequence[Pair]) -> list[bool]:
        tokenization = self.contract.tokenization
        if tokenization is None:
            return [True] * len(pairs)
        return [count.length <= tokenization.max_length for count in tokenization.count(pairs)]


def _whole(answer: Answer) -> bool:
    return answer.stopped and bool(answer.response.strip())


def asked_of_base(context: Context, engine: Engine, base: ResolvedArm, prompts: Sequence[Prompted]) -> Stored:
    """Let the base answer what is taught so that it is not forgotten."""
    with context.clock.spent_on("answers to replay"):
        return answered(context, engine, _as_replayed(base), prompts, "prompts to replay")


def _as_replayed(base: ResolvedArm) -> ResolvedArm:
    """Return the base's arm as it answers what is replayed: greedy, with room for a whole answer, in no format."""
    generation = dataclasses.replace(base.plan.generation, max_new_tokens=MOST_NEW_TOKENS, constrain=None)
    return dataclasses.replace(base, plan=dataclasses.replace(base.plan, generation=generation)).greedy()


def drift_without(store: Store, key: str, prompts_sha256: str) -> dict[str, Any]:
    """Return the drift of the same training without replay, where a stored run measured it on the same prompts."""
    for name in store.runs("key", key):
        run = store.read("records", name)
        if run is None:
            continue
        drift = json.loads((run.path / RUN).read_text(encoding="utf-8"))["experiment"].get("drift") or {}
        if drift.get("outcome") == "measured" and drift.get("sha256") == prompts_sha256:
            told = ("prompts", "answers_changed", "mean_kl", "like_task")
            return {"run": name, **{one: drift[one] for one in told}}
    return {}
