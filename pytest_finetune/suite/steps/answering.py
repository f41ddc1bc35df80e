"""The arms' answers: from the store where the same model was asked the same, else from the runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers, write_answers
from pytest_finetune.answering.prompts import arm_prompts, choose_shots
from pytest_finetune.answering.runtimes.protocol import AnsweringError, DescribedRuntime
from pytest_finetune.fingerprint import canonical_json, digest, model_digest, outputs_key, package_versions
from pytest_finetune.suite.progress import ProgressLine
from pytest_finetune.suite.steps.engine import base_of, environment_of, runtime_for
from pytest_finetune.suite.steps.external_arms import outside_of

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.experiment import Generation
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.steps.external_arms import Outside


def answers_of(run: ExperimentRun, plan: ArmPlan, suite: str | None = None) -> Mapping[str, Answer]:
    """Return the answers of a planned arm by row id and put down the arm's facts.

    The plan alone says what is asked: a plan with another runtime, name or generation is another arm, answered,
    stored and put down under its own name.
    """
    _ = run.checked_data
    outside = outside_of(run, plan)
    if outside is not None and outside.answers is not None:
        return _imported(run, plan, outside)
    stored = answered(run, plan, _prompts(run, plan, suite), suite)
    facts = _arm_facts(plan, suite, stored.answers)
    facts |= {"outputs_key": stored.key, "reused": stored.reused, **(outside.facts if outside else {})}
    facts |= stored.told
    run.note(("arms", label(plan.name, suite)), facts)
    return stored.answers


class Stored(NamedTuple):
    """Answers by row id, the key under which the store holds them, whether it held them before, and what answered."""

    answers: Mapping[str, Answer]
    key: str
    reused: bool
    told: Mapping[str, Any]


def answered(
    run: ExperimentRun, plan: ArmPlan, prompts: Sequence[Prompted], suite: str | None = None
) -> Stored:
    """Return a plan's answers to any prompts, from the store or from the model, and put nothing down."""
    outside = outside_of(run, plan)
    adapter = run.adapter.path if plan.model == "tuned" else outside.adapter if outside else None
    plan = dataclasses.replace(plan, generation=generation_of(run, plan))
    key = _key(run, plan, prompts, adapter)
    entry = run.session.store.read("outputs", key)
    reused = entry is not None
    if entry is None:
        entry = _ask(run, plan, suite, prompts, key, adapter)
    return Stored(_read(entry, prompts), entry.key, reused, _told(plan, _about(run, plan, adapter)))


def generation_of(run: ExperimentRun, plan: ArmPlan) -> Generation:
    """Return how an arm decodes, the contract's schema in place of the word."""
    if plan.generation.constrain is None:
        return plan.generation
    schema = run.contract.schema
    if not isinstance(schema, Mapping):
        raise AnsweringError(
            f"generation.constrain: contract: {run.experiment.paths.contract_file} has no output.schema to decode "
            "under\n  write one, or leave generation.constrain out"
        )
    return dataclasses.replace(plan.generation, constrain=canonical_json(schema).decode())


def _imported(run: ExperimentRun, plan: ArmPlan, outside: Outside) -> Mapping[str, Answer]:
    """Put down imported answers like our own; they are kept in the store, where the record finds them."""
    answers = outside.answers or {}
    key = digest({"imported": [dataclasses.asdict(answer) for answer in answers.values()]})
    store = run.session.store
    if store.read("outputs", key) is None:
        about = {"arm": plan.name, "suite": None, "task": run.experiment.task, "runtime": plan.runtime}
        store.commit("outputs", key, lambda to: write_answers(to / ANSWERS_FILE, answers.values()), about)
    facts = _arm_facts(plan, None, answers) | {"outputs_key": key, "reused": True, **outside.facts}
    run.note(("arms", plan.name), facts)
    return answers


def label(arm: str, suite: str | None) -> str:
    """Return the name under which the record and `outputs/` hold an arm's answers to a suite."""
    return arm if suite is None else f"{arm}@{suite}"


def _prompts(run: ExperimentRun, plan: ArmPlan, suite: str | None) -> tuple[Prompted, ...]:
    prompt = run.experiment.prompt
    shots: tuple[Any, ...] = ()
    if plan.prompts == "candidate":
        prompt = dataclasses.replace(prompt, template=run.best_prompt)
    if plan.prompts == "few-shot":
        seed = run.experiment.training.seed
        shots = choose_shots(run.train_rows, prompt.few_shot, seed, run.contract.label_field)
        run.note(("prompt_shots",), [row.place for row in shots])
    return arm_prompts(run.rows_of(suite), prompt, shots)


def _key(run: ExperimentRun, plan: ArmPlan, prompts: Sequence[Prompted], adapter: Path | None) -> Any:
    outside = outside_of(run, plan)
    experiment = (outside and outside.experiment) or run.experiment
    model = model_digest(base_of(run, experiment), adapter, quantization=experiment.quantization)
    asked = [[prompted.id, prompted.prompt] for prompted in prompts]
    about = _about(run, plan, adapter)
    environment = environment_of(run) | ({"runtime_sha256": digest(about)} if about else {}) | _decoder(plan)
    return outputs_key(model, asked, plan.generation, plan.runtime, environment, run=plan.run)


def _about(run: ExperimentRun, plan: ArmPlan, adapter: Path | None) -> dict[str, Any]:
    """Return what a runtime with settings says of itself; empty for one without."""
    if plan.runtime not in run.experiment.runtime_settings:
        return {}
    runtime = run.runtime_named(plan.runtime)
    if not isinstance(runtime, DescribedRuntime):
        return {}
    return run.once(f"identity of {plan.runtime} for {plan.model}", lambda: runtime.about(adapter))


def _told(plan: ArmPlan, about: Mapping[str, Any]) -> dict[str, Any]:
    """Name a runtime with settings by what it answers with."""
    version = about.get("dtype") or about.get("version")
    return {"runtime": f"{plan.runtime} ({version})"} if isinstance(version, str) else {}


def _decoder(plan: ArmPlan) -> dict[str, str]:
    """Return the version of what constrains the decoding: another one may answer otherwise."""
    return package_versions(("llguidance",)) if plan.generation.constrain else {}


def _ask(
    run: ExperimentRun,
    plan: ArmPlan,
    suite: str | None,
    prompts: Sequence[Prompted],
    key: Any,
    adapter: Path | None,
) -> Entry:
    line = ProgressLine(run.session.config, run.experiment.name)
    store = run.session.store

    def write(folder: Path) -> None:
        run.rest(run.runtimes - {plan.runtime})  # two engines need not fit into one memory
        runtime = _runtime(run, plan)
        if plan.generation.constrain and not getattr(runtime, "constrains", False):
            raise AnsweringError(
                f"generation.constrain: the runtime {plan.runtime!r} cannot decode under a schema"
            )
        write_answers(folder / ANSWERS_FILE, runtime.answer(prompts, plan.generation, adapter))
        if plan.model == "base_model":
            runtime.release()  # it answers once; two bases at a time may not fit

    with store.lock("outputs", key, line.say):
        entry = store.read("outputs", key)
        if entry is None:
            about = {
                "arm": plan.name,
                "suite": suite,
                "task": run.experiment.task,
                "runtime": plan.runtime,
            }
            entry = store.commit("outputs", key, write, about)
    return entry


def _runtime(run: ExperimentRun, plan: ArmPlan) -> Runtime:
    """Return the runtime of the experiment's base, or one with the other base, after giving ours back."""
    outside = outside_of(run, plan)
    if outside is None or outside.experiment is None:
        return run.runtime_named(plan.runtime)
    run.runtime_named(plan.runtime).release()
    return runtime_for(run, plan.runtime, outside.experiment)


def _read(entry: Entry, prompts: Sequence[Prompted]) -> Mapping[str, Answer]:
    from dataclasses import replace

    by_id = {answer.id: answer for answer in read_answers(entry.path / ANSWERS_FILE)}
    return {prompted.id: replace(by_id[prompted.id], line=prompted.line) for prompted in prompts}


def _arm_facts(plan: ArmPlan, suite: str | None, answers: Mapping[str, Answer]) -> dict[str, Any]:
    from importlib import metadata

    version = f" {metadata.version('transformers')}" if plan.runtime == "transformers" else ""
    return {
        **plan.facts(),
        "runtime": plan.runtime + version,
        "outputs": f"outputs/{label(plan.name, suite)}.jsonl",
        "suite": suite,
        "answers": len(answers),
        "tokens": sum(answer.tokens for answer in answers.values()),
        "seconds": round(sum(answer.seconds for answer in answers.values()), 3),
        "stopped": sum(answer.stopped for answer in answers.values()),
        "answers_sha256": digest([[answer.id, answer.response] for answer in answers.values()]),
    }
