"""The arms' answers: from the store where the same model was asked the same, else from the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.suite.progress import ProgressLine

if TYPE_CHECKING:
    from pytest_finetune.evaluation.answers import Answer
    from pytest_finetune.evaluation.arms import ArmPlan
    from pytest_finetune.evaluation.prompts import Prompted
    from pytest_finetune.evaluation.runtimes import Runtime
    from pytest_finetune.experiment import Generation
    from pytest_finetune.fingerprint import BaseDigest
    from pytest_finetune.store import Entry
    from pytest_finetune.suite.run import ExperimentRun

ANSWERS_FILE: Final = "answers.jsonl"


class BaseModel:
    """The untouched base model, loaded when it is first used."""

    def __init__(self, runtime: Runtime, generation: Generation) -> None:
        self._runtime = runtime
        self._generation = generation

    @property
    def model(self) -> Any:
        """The loaded model, in evaluation mode."""
        return self._runtime.model  # type: ignore[attr-defined]

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self._runtime.tokenizer  # type: ignore[attr-defined]

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Answer prompts, exactly as given, with the experiment's generation settings; raw text comes back."""
        from pytest_finetune.evaluation.prompts import Prompted

        asked = [Prompted(str(number), number, prompt) for number, prompt in enumerate(prompts, 1)]
        return [answer.response for answer in self._runtime.answer(asked, self._generation, None)]


def runtime_for(run: ExperimentRun, name: str) -> Runtime:
    """Ask the registered runtimes for the one of that name; the Hugging Face one is built in."""
    from pytest_finetune.evaluation.runtimes.protocol import AnsweringError

    found = run.session.config.hook.pytest_finetune_runtime(
        name=name,
        experiment=run.experiment,
        base=base_name(run),
        device=run.session.device,
        store=run.session.store,
    )
    if found is None:
        raise AnsweringError(
            f"runtimes: {name!r} is not known: 'transformers' is built in; pytest_finetune_runtime adds another"
        )
    return found  # type: ignore[no-any-return]


def base_name(run: ExperimentRun) -> str:
    """Return what loaders take: the base model's folder, or its hub id."""
    local = run.experiment.local_base()
    return str(local) if local is not None else run.experiment.base_model


def base_of(run: ExperimentRun) -> BaseDigest:
    """Return the base model's digests; refuses a base without weights or with pickles only."""
    from pytest_finetune.fingerprint import base_digest, base_folder

    folder = base_folder(run.experiment)
    trust = run.experiment.trust_remote_code
    return run.once("the base model", lambda: base_digest(folder, run.session.store, trust_remote_code=trust))


def environment_of(run: ExperimentRun) -> dict[str, str]:
    """Return the package versions, device class and dtype that answers and weights depend on; imports no torch."""
    from pytest_finetune.fingerprint import package_versions

    return {**package_versions(), "device": device_class(run), "dtype": dtype_class(run)}


def device_class(run: ExperimentRun) -> str:
    """Return ``cpu``, or the kind of device with its model: two cards of one model give the same numbers."""
    from pytest_finetune.memory.hardware import detect
    from pytest_finetune.memory.hardware import device_class as kind_of

    kind = kind_of(run.session.device)
    if kind == "cpu":
        return "cpu"
    return f"{kind}:{run.once('the device', lambda: detect(run.session.device, run.session.store.root)).name}"


def dtype_class(run: ExperimentRun) -> str:
    """Return the compute dtype; on CUDA the card decides between bfloat16 and float16, and it stands in the key."""
    return "card" if run.session.device.startswith("cuda") else "float32"


def answers_of(run: ExperimentRun, plan: ArmPlan, suite: str | None = None) -> Mapping[str, Answer]:
    """Return the answers of a planned arm by row id and put down the arm's facts.

    The plan alone says what is asked: a plan with another runtime, name or generation is another arm, answered,
    stored and put down under its own name.
    """
    _ = run.checked_data
    prompts = _prompts(run, plan, suite)
    adapter = run.adapter.path if plan.model == "tuned" else None
    key = _key(run, plan, prompts, adapter)
    entry = run.session.store.read("outputs", key)
    reused = entry is not None
    if entry is None:
        entry = _ask(run, plan, suite, prompts, key, adapter)
    answers = _read(entry, prompts)
    run.note(("arms", label(plan.name, suite)), _arm_facts(plan, suite, entry, answers, reused=reused))
    return answers


def label(arm: str, suite: str | None) -> str:
    """Return the name under which the record and `outputs/` hold an arm's answers to a suite."""
    return arm if suite is None else f"{arm}@{suite}"


def _prompts(run: ExperimentRun, plan: ArmPlan, suite: str | None) -> tuple[Prompted, ...]:
    from pytest_finetune.evaluation.prompts import arm_prompts, choose_shots

    prompt = run.experiment.prompt
    shots: tuple[Any, ...] = ()
    if plan.prompts == "few-shot":
        seed = run.experiment.training.seed
        shots = choose_shots(run.train_rows, prompt.few_shot, seed, run.contract.label_field)
        run.note(("prompt_shots",), [row.place for row in shots])
    return arm_prompts(run.rows_of(suite), prompt, shots)


def _key(run: ExperimentRun, plan: ArmPlan, prompts: Sequence[Prompted], adapter: Path | None) -> Any:
    from pytest_finetune.fingerprint import model_digest, outputs_key

    model = model_digest(base_of(run), adapter, quantization=run.experiment.quantization)
    asked = [[prompted.id, prompted.prompt] for prompted in prompts]
    return outputs_key(model, asked, plan.generation, plan.runtime, environment_of(run))


def _ask(
    run: ExperimentRun,
    plan: ArmPlan,
    suite: str | None,
    prompts: Sequence[Prompted],
    key: Any,
    adapter: Path | None,
) -> Entry:
    from pytest_finetune.evaluation.answers import write_answers

    line = ProgressLine(run.session.config, run.experiment.name)
    store = run.session.store

    def write(folder: Path) -> None:
        answers = run.runtime_named(plan.runtime).answer(prompts, plan.generation, adapter)
        write_answers(folder / ANSWERS_FILE, answers)

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


def _read(entry: Entry, prompts: Sequence[Prompted]) -> Mapping[str, Answer]:
    from dataclasses import replace

    from pytest_finetune.evaluation.answers import read_answers

    by_id = {answer.id: answer for answer in read_answers(entry.path / ANSWERS_FILE)}
    return {prompted.id: replace(by_id[prompted.id], line=prompted.line) for prompted in prompts}


def _arm_facts(
    plan: ArmPlan,
    suite: str | None,
    entry: Entry,
    answers: Mapping[str, Answer],
    *,
    reused: bool,
) -> dict[str, Any]:
    from importlib import metadata

    from pytest_finetune.fingerprint import digest

    version = f" {metadata.version('transformers')}" if plan.runtime == "transformers" else ""
    return {
        **plan.facts(),
        "runtime": plan.runtime + version,
        "outputs": f"outputs/{label(plan.name, suite)}.jsonl",
        "outputs_key": entry.key,
        "suite": suite,
        "reused": reused,
        "answers": len(answers),
        "tokens": sum(answer.tokens for answer in answers.values()),
        "seconds": round(sum(answer.seconds for answer in answers.values()), 3),
        "stopped": sum(answer.stopped for answer in answers.values()),
        "answers_sha256": digest([[answer.id, answer.response] for answer in answers.values()]),
    }
