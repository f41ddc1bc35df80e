"""The arms' answers: from the store where the same model was asked the same, else from the runtime."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.answering.answers import ANSWERS_FILE, Answer, answer_json, read_answers, write_answers
from pytest_finetune.answering.prompts import arm_prompts, choose_shots
from pytest_finetune.answering.reading import taken_apart
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.experiment.runtimes import TRANSFORMERS
from pytest_finetune.fingerprint import (
    attention_of,
    digest,
    installed_version,
    model_digest,
    outputs_key,
    package_versions,
)
from pytest_finetune.suite.jobs.requests import can_be_sent, questions
from pytest_finetune.suite.steps.grammars import constrainable, wanted_grammar

if TYPE_CHECKING:
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.chat import Chat
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.data.trivial import Trivial
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.suite.steps.external_arms import Outside
    from pytest_finetune.yamlfile import Json


MERGE: Final = "merge"
BESIDE: Final = ("decoding", "rendering", "gguf", MERGE)
"""What may lie beside the answers, a JSON file each: where a runtime may have decoded otherwise, how the prompts that a
server makes compare with those of the decision, the GGUF file that answered, the proof of a merged model."""
LOOKED_UP_S: Final = 1e-6
"""What an answer without a model is said to take: above nothing, so that a rule about time can judge it."""


@dataclass(frozen=True, slots=True)
class ResolvedArm:
    """An arm with everything that its answers depend on but the prompts: resolved once, then only carried.

    `experiment` names the base that answers, under the adapter in `adapter` if there is one; `model` is the digest of
    both; `random` says that it is asked with random weights of that adapter's shapes. `facts` are what the record says
    besides the plan: where an arm from outside comes from, what answers.
    """

    plan: ArmPlan
    experiment: Experiment
    adapter: Path | None
    model: str
    environment: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    chat: Chat | None = None
    random: bool = False

    def key(self, prompts: Sequence[Prompted]) -> Key:
        """Return the key of this arm's answers to prompts."""
        asked = [prompted.fields() for prompted in prompts]
        plan = self.plan
        chat = None if all(isinstance(prompted.prompt, str) for prompted in prompts) else self.chat
        return outputs_key(
            self.model,
            asked,
            plan.generation,
            plan.runtime,
            dict(self.environment),
            run=plan.run,
            template=chat.facts if chat else {},
        )

    @property
    def thinking_off(self) -> str | None:
        """What to write under ``prompt.chat_template_kwargs`` so that it does not think, if known."""
        given = self.experiment.prompt.chat_template_kwargs
        return None if self.chat is None or given.get("enable_thinking") is False else self.chat.switch

    def greedy(self) -> ResolvedArm:
        """Return the same arm without sampling."""
        generation = dataclasses.replace(self.plan.generation, do_sample=False)
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, generation=generation))


def resolve(
    plan: ArmPlan,
    own: Experiment,
    engine: Engine,
    contract: Contract,
    adapter: Path | None,
    outside: Outside | None,
) -> ResolvedArm:
    """Resolve an arm that is asked; `outside` is what one from outside brings, `own` the experiment of the others."""
    experiment = (outside and outside.experiment) or own
    if plan.generation.constrain is not None:
        held = dataclasses.replace(plan.generation, constrain=wanted_grammar(own, contract))
        plan = dataclasses.replace(plan, generation=held)
    return resolved(plan, experiment, engine, adapter, outside.facts if outside else {})


def resolved(
    plan: ArmPlan, experiment: Experiment, engine: Engine, adapter: Path | None, facts: Mapping[str, Any]
) -> ResolvedArm:
    """Resolve an arm whose grammar, if it has one, stands in its plan."""
    # Another version of what holds answers to a grammar may decode otherwise.
    decoder = {} if plan.generation.constrain is None else package_versions(("llguidance",))
    about = engine.about(plan.runtime, adapter)
    described = {"runtime_sha256": digest(about)} if about else {}
    version = about.get("dtype") or about.get("version")
    named = {"runtime": f"{plan.runtime} ({version})"} if isinstance(version, str) else {}
    return ResolvedArm(
        plan=plan,
        experiment=experiment,
        adapter=adapter,
        model=model_digest(engine.base(experiment), adapter, quantization=experiment.quantization),
        environment={**engine.the_environment, **described, **decoder, **attention_of(experiment)},
        facts={**facts, **named},
        chat=engine.chat(experiment),
    )


def constrained_unasked(experiment: Experiment, contract: Contract, engine: Engine) -> bool:
    """Tell whether the base answers under a grammar too, though the experiment does not speak of it.

    It costs one more arm and no work of the user's, so it is asked wherever it can be.
    """
    first = experiment.runtimes[0]
    if first != TRANSFORMERS or not constrainable(experiment, contract):
        return False
    return bool(getattr(engine.runtime(first), "constrains", False))


class Stored(NamedTuple):
    """Answers by row id, the key under which the store holds them, and whether it held them before.

    `told` holds what their runtime told of them, by the names in `BESIDE`.
    """

    answers: Mapping[str, Answer]
    key: str
    reused: bool
    told: Mapping[str, Json] = MappingProxyType({})


def answered(
    context: Context,
    engine: Engine,
    arm: ResolvedArm,
    prompts: Sequence[Prompted],
    suite: str | None = None,
    sizes_before: Sequence[int] = (),
) -> Stored:
    """Return an arm's answers to prompts, from the store or from the model; records nothing.

    Where rows were added, `sizes_before` says how many there were at earlier looks: only the rows since are asked.
    """
    key = arm.key(prompts)
    entry = context.store.read("outputs", key)
    reused = entry is not None
    if entry is None and context.jobs is not None and can_be_sent(context, arm.plan.runtime, arm.adapter):
        adapter = None if arm.adapter is None else arm.adapter.name
        request = partial(
            questions, arm.plan, arm.experiment, adapter, prompts, suite, sizes_before, random=arm.random
        )
        entry, reused = context.jobs.made("outputs", key, request, None)
    if entry is None:
        earlier = (context.store.read("outputs", arm.key(prompts[:size])) for size in sizes_before)
        entry = _ask(context, engine, arm, prompts, suite, key, next(filter(None, earlier), None))
    by_id = {answer.id: answer for answer in read_answers(entry.path / ANSWERS_FILE)}
    answers = {asked.id: _of_row(by_id[asked.id], asked) for asked in prompts}
    return Stored(answers, entry.key, reused, told_beside(entry))


def _of_row(answer: Answer, asked: Prompted) -> Answer:
    """Give a stored answer the line of its row, and the tools that were sent beside its prompt of messages."""
    beside = bool(asked.tools) and not isinstance(asked.prompt, str) and answer.prompt == asked.recorded
    return dataclasses.replace(answer, line=asked.line, tools=tuple(asked.tools) if beside else ())


def told_beside(entry: Entry) -> dict[str, Json]:
    """Return what a runtime told of stored answers, by the names in `BESIDE`."""
    files = {name: entry.path / f"{name}.json" for name in BESIDE}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()}


def _ask(
    context: Context,
    engine: Engine,
    arm: ResolvedArm,
    prompts: Sequence[Prompted],
    suite: str | None,
    key: Key,
    earlier: Entry | None = None,
) -> Entry:
    plan, store = arm.plan, context.store
    known = {} if earlier is None else {one.id: one for one in read_answers(earlier.path / ANSWERS_FILE)}
    prompts = [asked for asked in prompts if asked.id not in known]

    def write(folder: Path) -> None:
        engine.release(set(engine.runtimes) - {plan.runtime})  # two engines need not fit into one memory
        runtime = engine.runtime_of(arm.experiment, plan.runtime)
        if plan.generation.constrain and not getattr(runtime, "constrains", False):
            raise AnsweringError(
                f"generation.constrain: the runtime {plan.runtime!r} cannot decode under a schema"
            )
        if hasattr(runtime, "heard"):
            runtime.heard = lambda done, of: context.line.note(f"{done} of {of}")
        given = runtime.answer(prompts, plan.generation, arm.adapter)
        read = taken_apart(prompts, given, arm.chat, lambda text: engine.tokens(arm.experiment)(text))
        write_answers(folder / ANSWERS_FILE, [*known.values(), *read])
        told = {name: getattr(runtime, name, None) for name in BESIDE if name != MERGE}
        if (proof := getattr(runtime, "proof", None)) and (merge := proof(arm.adapter)):
            told[MERGE] = {**merge.as_json(), "says": merge.line}
        for name, facts in told.items():
            if facts:
                (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
        if plan.model == "base_model":
            runtime.release()  # it answers once; two bases at a time may not fit

    with store.lock("outputs", key, context.line.say):
        entry = store.read("outputs", key)
        return entry or store.commit("outputs", key, write, _about(context, plan, suite))


def imported(context: Context, plan: ArmPlan, answers: Mapping[str, Answer]) -> Stored:
    """Keep imported answers like our own in the store, where the record finds them."""
    key = digest({"imported": [answer_json(answer) for answer in answers.values()]})
    if context.store.read("outputs", key) is None:
        about = _about(context, plan, None)
        context.store.commit(
            "outputs", key, lambda to: write_answers(to / ANSWERS_FILE, answers.values()), about
        )
    return Stored(answers, key, True)


def without_model(trivial: Trivial, rows: Rows) -> dict[str, Answer]:
    """Return the answers of an opponent that needs no model, by row id."""
    return {
        row.id: Answer(row.id, row.line, row.input, trivial.answer(row), 0, LOOKED_UP_S, stopped=True)
        for row in rows
    }


def _about(context: Context, plan: ArmPlan, suite: str | None) -> dict[str, Any]:
    return {"arm": plan.name, "suite": suite, "task": context.experiment.task, "runtime": plan.runtime}


def label(arm: str, suite: str | None) -> str:
    """Return the name under which the record and `outputs/` hold an arm's answers to a suite."""
    return arm if suite is None else f"{arm}@{suite}"


def record_answers(
    context: Context,
    plan: ArmPlan,
    stored: Stored,
    facts: Mapping[str, Any],
    suite: str | None = None,
    *,
    thinking_off: str | None = None,
) -> None:
    """Record an arm with its answers, and what else is known of what answered."""
    answers = stored.answers.values()
    version = f" {installed_version('transformers')}" if plan.runtime == "transformers" else ""
    own = {
        **plan.facts(),
        "runtime": plan.runtime + version,
        "outputs": f"outputs/{label(plan.name, suite)}.jsonl",
        "suite": suite,
        "answers": len(answers),
        "tokens": sum(answer.tokens for answer in answers),
        "seconds": round(sum(answer.seconds for answer in answers), 3),
        "stopped": sum(answer.stopped for answer in answers),
        "answers_sha256": digest([[answer.id, answer.response] for answer in answers]),
        "outputs_key": stored.key,
        "reused": stored.reused,
        **_thinking(stored.answers, thinking_off),
    }
    context.record(("arms", label(plan.name, suite)), {**own, **stored.told, **facts})


def _thinking(answers: Mapping[str, Answer], off: str | None) -> dict[str, Any]:
    """Return how often an arm thought, and how often the limit came before its answer; else nothing."""
    thoughts = [answer for answer in answers.values() if answer.thinking is not None]
    if not thoughts:
        return {}
    cut = sum(answer.cut_while_thinking for answer in thoughts)
    tokens = sum(answer.thinking_tokens for answer in thoughts)
    return {"thinking": {"answers": len(thoughts), "cut": cut, "tokens": tokens, "off": off}}


def few_shots(context: Context, train_rows: Rows, label_field: str | None) -> tuple[Row, ...]:
    """Return the training rows that stand before each question of the prompted arm, and record them."""
    experiment = context.experiment
    shots = choose_shots(train_rows, experiment.prompt.few_shot, experiment.training.seed, label_field)
    context.record(("prompt_shots",), [row.place for row in shots])
    return shots


def noise(
    context: Context,
    engine: Engine,
    arms: Sequence[ResolvedArm],
    rows: Rows,
    first: Mapping[str, Answer],
    sizes_before: Sequence[int] = (),
) -> tuple[Mapping[str, Answer], ...]:
    """Return the base's answers of every further run, each asked once and stored under its number.

    A row whose answer differs between them is recorded: what differs by noise alone was never fixed by a training.
    """
    prompts = arm_prompts(rows, context.experiment.prompt)
    found = []
    for arm in arms:
        stored = answered(context, engine, arm, prompts, sizes_before=sizes_before)
        changed = [id_ for id_, answer in stored.answers.items() if answer.response != first[id_].response]
        facts = {"run": arm.plan.run, "outputs_key": stored.key, "reused": stored.reused, "changed": changed}
        context.record(("noise", str(arm.plan.run)), facts)
        found.append(stored.answers)
    return tuple(found)
