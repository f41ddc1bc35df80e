"""What a step elsewhere is asked for: JSON that is complete, and from which nothing is imported, loaded or run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.answering.arm_plans import ArmPlan
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.data.formatting import Pair
from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment import Generation, GgufSettings, MergedSettings, ServerSettings
from pytest_finetune.experiment.reading import experiment_json, experiment_of
from pytest_finetune.experiment.runtimes import Named, as_written
from pytest_finetune.fingerprint import Key, importing_keys
from pytest_finetune.store.jobs import is_key
from pytest_finetune.suite.steps.making import Lesson, Ordered
from pytest_finetune.training.sft_arguments import OURS

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.suite.context import Context
    from pytest_finetune.yamlfile import Json, JsonTree

SCHEMA: Final = 1
TRAIN: Final = "train"
ANSWER: Final = "answer"
DIVERGE: Final = "diverge"
_SERVED: Final = (ServerSettings, GgufSettings)
"""Runtimes that are servers: asked from where pytest runs, and never by a job."""


class StepRefused(FinetuneError):
    """A step is not run; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Head:
    """What opens every request: the key that was asked for, the experiment, and what may differ there."""

    asked: Key
    experiment: Experiment
    device: str
    reuse: str


@dataclass(frozen=True, slots=True)
class ToTrain:
    """A training; `longest` is what its memory plan is made for."""

    head: Head
    ordered: Ordered
    longest: int | None


@dataclass(frozen=True, slots=True)
class ToAnswer:
    """An arm's prompts; `adapter` is a key of the store, None for the base."""

    head: Head
    plan: ArmPlan
    adapter: str | None
    prompts: tuple[Prompted, ...]
    suite: str | None
    sizes_before: tuple[int, ...]
    random: bool


@dataclass(frozen=True, slots=True)
class ToDiverge:
    """The divergence of the tuned model along the base's answers; `base` and `tuned` are keys of answers."""

    head: Head
    runtime: str
    base: str
    tuned: str
    adapter: str
    prompts: tuple[Prompted, ...]


Request = ToTrain | ToAnswer | ToDiverge


def can_be_sent(context: Context, runtime: str, adapter: Path | None) -> bool:
    """Tell whether a job can ask a model: one that it can load or merge itself, with an adapter of the store if any.

    A server is asked from here, the one of a GGUF file too: its address need not lead anywhere from there, and a job
    runs no command that a store names.
    """
    own = adapter is None or adapter.parent == context.store.root / "adapters"
    settings = context.experiment.runtime_settings.get(runtime)
    return own and not isinstance(settings, _SERVED)


def training(experiment: Experiment, ordered: Ordered, longest: int | None) -> JsonTree:
    """Return a training as JSON, with the experiment of its seed."""
    lesson = ordered.lesson
    return {
        "does": TRAIN,
        "experiment": experiment_json(experiment),
        "longest": longest,
        "pairs": [pair.fields() for pair in lesson.pairs],
        "dev": [pair.fields() for pair in lesson.dev],
        "template": dict(lesson.template),
        "replay": dict(lesson.replay),
        "more": [pair.fields() for pair in ordered.more],
        "replayed": None if ordered.replay is None else dict(ordered.replay),
        "rows": list(ordered.rows),
        "held_out": [pair.fields() for pair in ordered.held_out],
        "held_out_file_sha256": ordered.held_out_file_sha256,
        "max_truncated": ordered.max_truncated,
    }


def questions(
    plan: ArmPlan,
    experiment: Experiment,
    adapter: str | None,
    prompts: Sequence[Prompted],
    suite: str | None,
    sizes_before: Sequence[int],
    *,
    random: bool,
) -> JsonTree:
    """Return an arm's questions as JSON, with the experiment whose base answers them.

    `sizes_before` says how many of them were answered at earlier looks; with `random`, random weights of the
    adapter's shapes answer in its place.
    """
    return {
        "does": ANSWER,
        "experiment": _asked_of(experiment, plan.runtime),
        "plan": dataclasses.asdict(plan),
        "adapter": adapter,
        "prompts": _prompts_json(prompts),
        "suite": suite,
        "sizes_before": list(sizes_before),
        "random": random,
    }


def divergence(
    experiment: Experiment, runtime: str, base: str, tuned: str, adapter: str, prompts: Sequence[Prompted]
) -> JsonTree:
    """Return the question how far the tuned model diverges as JSON, without its head."""
    asked = {"runtime": runtime, "base": base, "tuned": tuned, "adapter": adapter}
    prompted = {"experiment": _asked_of(experiment, runtime), "prompts": _prompts_json(prompts)}
    return {"does": DIVERGE, **asked, **prompted}


def _asked_of(experiment: Experiment, runtime: str) -> JsonTree:
    """Return the experiment as JSON with the runtime that answers, where that is a merged model."""
    tree, settings = experiment_json(experiment), experiment.runtime_settings.get(runtime)
    if not isinstance(settings, MergedSettings):
        return tree
    return {**tree, "keys": {**tree["keys"], "runtimes": [as_written(Named(runtime, settings))]}}


def _prompts_json(prompts: Sequence[Prompted]) -> list[Any]:
    return [
        [asked.id, asked.line, asked.prompt, list(asked.tools), dict(asked.arguments)] for asked in prompts
    ]


def with_head(tree: JsonTree, asked: Key, experiment: Experiment, device: str, reuse: str) -> JsonTree:
    """Return a request with its head."""
    return {
        "schema": SCHEMA,
        "asked": dict(asked.fields),
        "experiment": experiment_json(experiment),
        "device": device,
        "reuse": reuse,
        **tree,
    }


def read(tree: Json, key: str, root: Path) -> Request:
    """Return the request of a key for the project at `root`; StepRefused when it is not one, or would run code."""
    if tree.get("schema") != SCHEMA:
        raise StepRefused(
            f"the request has schema {tree.get('schema')!r:.20}, this pytest-finetune reads {SCHEMA}: install the same "
            "version here and where pytest runs"
        )
    try:
        made = _READERS[tree["does"]](tree, _head(tree, root))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StepRefused(
            f"the request is none: {type(error).__name__}: {error!s:.200}: send it again with pytest --finetune"
        ) from None
    if made.head.asked.value != key:
        raise StepRefused(
            f"the request asks for {made.head.asked.value[:12]}, not for {key[:12]}: send it again with "
            "pytest --finetune"
        )
    _refuse_code(made.head.experiment)
    _refuse_server(made)
    return made


def _head(tree: Json, root: Path) -> Head:
    said = tree["experiment"]
    experiment = experiment_of({**said, "root": str(root)})
    device, reuse = tree["device"], tree["reuse"]
    if device not in {"auto", "cpu", "cuda", "mps"} or reuse not in {"exact", "semantic"}:
        raise ValueError(f"device {device!r}, reuse {reuse!r}")
    return Head(Key.of(tree["asked"]), experiment, device, reuse)


def _to_train(tree: Json, head: Head) -> ToTrain:
    template, replay, replayed = (tree[name] for name in ("template", "replay", "replayed"))
    lesson = Lesson(_pairs(tree["pairs"]), _pairs(tree["dev"]), _mapping(template), _mapping(replay))
    ordered = Ordered(
        lesson=lesson,
        rows=tuple(map(str, tree["rows"])),
        held_out=_pairs(tree["held_out"]),
        held_out_file_sha256=tree["held_out_file_sha256"],
        max_truncated=int(tree["max_truncated"]),
        more=_pairs(tree["more"]),
        replay=None if replayed is None else _mapping(replayed),
    )
    taught = len(lesson.pairs) + len(ordered.more)
    if len(ordered.rows) != taught:
        raise ValueError(f"{taught} rows but {len(ordered.rows)} places")
    longest = tree["longest"]
    return ToTrain(head, ordered, None if longest is None else int(longest))


def _to_answer(tree: Json, head: Head) -> ToAnswer:
    plan = ArmPlan(**{**tree["plan"], "generation": Generation(**tree["plan"]["generation"])})
    adapter = None if tree["adapter"] is None else _key(tree["adapter"])
    sizes = tuple(map(int, tree["sizes_before"]))
    return ToAnswer(
        head, plan, adapter, _prompts(tree["prompts"]), tree["suite"], sizes, bool(tree["random"])
    )


def _to_diverge(tree: Json, head: Head) -> ToDiverge:
    base, tuned, adapter = (_key(tree[name]) for name in ("base", "tuned", "adapter"))
    return ToDiverge(head, str(tree["runtime"]), base, tuned, adapter, _prompts(tree["prompts"]))


def _key(found: object) -> str:
    if not isinstance(found, str) or not is_key(found):
        raise ValueError(f"{found!r:.90} is no key")
    return found


def _prompts(found: Sequence[Any]) -> tuple[Prompted, ...]:
    return tuple(
        Prompted(str(id_), int(line), prompt, tuple(tools), _mapping(arguments))
        for id_, line, prompt, tools, arguments in found
    )


_READERS: Final[Mapping[str, Callable[[Any, Head], Request]]] = {
    TRAIN: _to_train,
    ANSWER: _to_answer,
    DIVERGE: _to_diverge,
}


def _pairs(found: Sequence[Any]) -> tuple[Pair, ...]:
    return tuple(map(Pair.of, found))


def _mapping(found: object) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise TypeError(f"{found!r:.80} is no mapping")
    return dict(found)


def _refuse_code(experiment: Experiment) -> None:
    """Refuse what would make a library import code because the store says so, whoever wrote it there."""
    if experiment.trust_remote_code:
        raise StepRefused(
            "trust_remote_code: true lets the base run code of its own, and no job does that because a store says so: "
            "train and ask it with --finetune-executor=local"
        )
    sft = experiment.training.sft
    named = [*importing_keys(sft), *(name for name in sft if name in OURS)]
    named += importing_keys({"attn_implementation": experiment.attn_implementation})
    if named:
        raise StepRefused(f"{named[0]} is not taken from a store: leave it out")


def _refuse_server(request: Request) -> None:
    """Refuse to start or ask what a store names; other runtimes of the experiment may be servers, and are not asked."""
    if isinstance(request, ToTrain):
        return
    runtime = request.plan.runtime if isinstance(request, ToAnswer) else request.runtime
    if isinstance(request.head.experiment.runtime_settings.get(runtime), _SERVED):
        raise StepRefused(
            f"runtime {runtime!r} is a server, and no job starts or asks one because a store says so: it is asked from "
            "where pytest runs"
        )
