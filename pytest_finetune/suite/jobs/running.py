"""One step where it was sent: read, check, run, keep. Nothing in the request is imported or executed."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.answering.answers import ANSWERS_FILE, read_answers
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.errors import FinetuneError, for_user
from pytest_finetune.executors import outcomes
from pytest_finetune.fingerprint import BaseModelError, Key
from pytest_finetune.memory.hardware.detect import detect
from pytest_finetune.memory.measure import Fit
from pytest_finetune.memory.plan.figures import NotPlannedError
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.store.shared.pending import mark
from pytest_finetune.suite.context import Context
from pytest_finetune.suite.device import ChosenDevice
from pytest_finetune.suite.evidence import Facts, Outbox
from pytest_finetune.suite.jobs.agreement import disagreement, worded
from pytest_finetune.suite.jobs.requests import StepRefused, ToAnswer, ToDiverge, ToTrain, read
from pytest_finetune.suite.jobs.telling import Telling
from pytest_finetune.suite.options import read_settings
from pytest_finetune.suite.steps import header, planning
from pytest_finetune.suite.steps.answering import answered, resolved
from pytest_finetune.suite.steps.drifting import divergence_key, kept_divergence
from pytest_finetune.suite.steps.engine import Engine
from pytest_finetune.suite.steps.making import made
from pytest_finetune.suite.steps.null_adapter import null_answered, null_of
from pytest_finetune.training.memory_error import OutOfMemoryError, is_out_of_memory

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.executors.outcomes import Outcome
    from pytest_finetune.store import Entry, Store
    from pytest_finetune.suite.jobs.requests import Request

# How engines ask a job to stop before they end it: Slurm and most others, submitit.
_STOP_SIGNALS: Final = ("SIGTERM", "SIGUSR2")


def run_step(config: pytest.Config, store: Store, root: Path, key: str) -> Outcome:
    """Run the step of a key, tell the store how it ended, and return that."""
    number = store.jobs.attempt(key)
    if store.jobs.request(key) is None:
        told = store.jobs.read(key, number, "told") if number else None
        if told is not None and told["state"] == outcomes.DONE.word:
            print(f"step {key[:12]} was done before: {told['kind']}/{told['made'][:12]}")
            return outcomes.DONE
        print(f"there is no step {key[:12]} in this store: send it with pytest --finetune, or name its store")
        return outcomes.REFUSED
    if not number:
        store.jobs.send(key, 1, {"executor": "by hand"})
    telling = Telling(store.jobs, key, max(1, number))
    with _stopping() as hear_no_more:
        outcome, text, facts = _ended(config, store, root, key, telling)
        hear_no_more()
        telling.end(outcome.word, text, **facts)
    if outcome is outcomes.DONE:
        store.jobs.forget(key)
    return outcome


def _ended(
    config: pytest.Config, store: Store, root: Path, key: str, telling: Telling
) -> tuple[Outcome, str, dict[str, Any]]:
    """Run the step, and return how it ended, whatever happens."""
    try:
        return outcomes.DONE, "", _made(config, store, root, key, telling)
    except (StepRefused, BaseModelError) as refused:
        return outcomes.REFUSED, str(refused), {}
    except OutOfMemoryError as error:
        return outcomes.MEMORY, str(error), {}
    except KeyboardInterrupt as stop:
        return outcomes.INTERRUPTED, str(stop) or "somebody stopped the step", {}
    except Exception as error:
        told = for_user(error)
        if told is not None:
            return outcomes.FAILED, str(told), {}
        telling.say("".join(traceback.format_exception(error)))
        text = f"{type(error).__name__}: {error}"
        return (outcomes.MEMORY if _is_full(error) else outcomes.FAILED), text, {}


def _is_full(error: Exception) -> bool:
    """Tell an allocator's failure; a step that never loaded torch need not for that."""
    known = "torch" in sys.modules and isinstance(error, RuntimeError)
    return isinstance(error, MemoryError) or (known and is_out_of_memory(error))


def _made(config: pytest.Config, store: Store, root: Path, key: str, telling: Telling) -> dict[str, Any]:
    """Make what is asked for, and return what the store is told of it."""
    tree = store.jobs.request(key)
    assert tree is not None
    request = read(tree, key, root)
    head = request.head
    context = Context(
        head.experiment,
        read_settings(config),
        store,
        config.hook,
        ChosenDevice(config, head.device, lambda: None),
        telling,
        Facts(head.experiment.name, Outbox()),
    )
    if head.device not in {"auto", "cpu"} and detect(head.device, store.root).device == "cpu":
        raise StepRefused(f"the step was asked on {head.device}, and there is no accelerator here")
    engine, began = Engine(context), time.monotonic()
    if isinstance(request, ToTrain):
        kind, result = "adapters", _train(context, engine, request)
    elif isinstance(request, ToAnswer):
        kind, result = "outputs", _answer(context, engine, request)
    else:
        kind, result = "outputs", _diverge(context, engine, request)
    return {
        "kind": kind,
        "made": result,
        "seconds": round(time.monotonic() - began, 3),
        "hardware": header.hardware(context),
        "environment": header.environment(),
    }


def _train(context: Context, engine: Engine, request: ToTrain) -> str:
    """Train and keep the adapter; one that is there is taken."""
    store, ordered = context.store, request.ordered
    key = ordered.lesson.key(context, engine)
    _agree(context, request, key)
    about: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        fit = _fit(context, request.longest)
        about.update(made(context, key, ordered, fit, folder, context.line.show))

    with store.lock("adapters", key, context.line.say):
        entry = store.read("adapters", key) or store.commit("adapters", key, fill, about)
    return _sent(store, "adapters", entry.key)


def _fit(context: Context, longest: int | None) -> Fit | None:
    """Return the card that is here and the plan for it; None where there is no card."""
    budget = planning.budget_of(context)
    if not budget.comparable:
        return None
    planner = Planner(context.store)
    try:
        return Fit(budget, planning.planned(context, longest, budget, planner), planner)
    except NotPlannedError:
        return Fit(budget, None, planner)


def _answer(context: Context, engine: Engine, request: ToAnswer) -> str:
    """Ask the model and keep its answers; those that are there are taken."""
    adapter = None if request.adapter is None else _there(context, "adapters", request.adapter).path
    _runtime(context, engine, request.plan.runtime)
    arm = resolved(request.plan, context.experiment, engine, adapter, {})
    asked = null_of(arm) if request.random else arm
    _agree(context, request, asked.key(request.prompts))
    if request.random:
        stored = null_answered(context, engine, arm, request.prompts)
    else:
        stored = answered(context, engine, arm, request.prompts, request.suite, request.sizes_before)
    if stored is None:
        raise StepRefused(f"no random adapter can be made of {request.adapter}: leave drift out")
    engine.release(list(engine.runtimes))
    return _sent(context.store, "outputs", stored.key)


def _diverge(context: Context, engine: Engine, request: ToDiverge) -> str:
    """Measure how far the tuned model diverges along the base's answers, which were given in this environment."""
    store, runtime = context.store, _runtime(context, engine, request.runtime)
    base, adapter = _there(context, "outputs", request.base), _there(context, "adapters", request.adapter)
    here, theirs = Key.of(engine.the_environment), base.fields.get("environment", {})
    other = {name: pair for name, pair in here.differs_from(theirs).items() if name in here.fields}
    if other and request.head.reuse != "semantic":
        said = worded({name: (theirs, ours) for name, (theirs, ours) in other.items()})
        raise StepRefused(
            f"the base's answers come from another environment: {said}\n  run it where they were given"
        )
    answers = {answer.id: answer for answer in read_answers(base.path / ANSWERS_FILE)}
    key = divergence_key(request.base, request.tuned, [answers[asked.id] for asked in request.prompts])
    _agree(context, request, key)
    asked = (request.runtime, request.prompts, answers, adapter.path)
    entry = kept_divergence(context, key, lambda: runtime, *asked, say=context.line.say)
    engine.release(list(engine.runtimes))
    return _sent(store, "outputs", entry.key)


def _there(context: Context, kind: str, key: str) -> Entry:
    """Return what a request rests on; StepRefused when the store has no sound one."""
    entry = context.store.read(kind, key)
    if entry is None:
        raise StepRefused(
            f"{kind}/{key[:12]} is not in this store: run pytest --finetune again, which makes it first"
        )
    return entry


def _runtime(context: Context, engine: Engine, name: str) -> Runtime:
    try:
        return engine.runtime_of(context.experiment, name)
    except AnsweringError as error:
        raise StepRefused(f"{error}: run the step in the project that has it (--rootdir)") from None


def _agree(context: Context, request: Request, key: Key) -> None:
    """Refuse to make something else than was asked for."""
    total = detect(context.device, context.store.root).total_bytes
    wrong = disagreement(request.head.asked, key.fields, total, reuse=request.head.reuse)
    if not wrong:
        return
    todo = "install the same here, or allow it with --finetune-reuse=semantic"
    named = {name.partition(".")[0] for name in wrong}
    if "trainer" in named:
        todo = "a trainer of your own stands in the project's conftest.py: run the step in that project (--rootdir)"
    elif named & {"base", "model"}:
        todo = f"bring the same base here: {context.experiment.base_model}"
    elif wrong.keys() & {"device_class", "environment.device"}:
        todo = "name the card of the jobs under executor.cards, or --finetune-device=cuda for any"
    raise StepRefused(f"this is not the environment that was asked for: {worded(wrong)}\n  {todo}")


def _sent(store: Store, kind: str, key: str) -> str:
    """Return the key of a result once it is where it is waited for."""
    if store.upstream is not None and mark(store.root, kind, key).exists():
        raise FinetuneError("\n".join(store.warnings))
    return key


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], None]]:
    """Take an engine's wish to stop as Ctrl-C: the step in progress ends whole, and a checkpoint is sealed.

    It is heard once: an engine signals every process of a job, and this one again through what started it, while a
    second Ctrl-C would not wait for the checkpoint. What the block is given lets it hear no more, and tell its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    # A shell that starts a command in the background lets it ignore Ctrl-C.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    stops = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]

    def deaf() -> None:
        for number in stops:
            signal.signal(number, signal.SIG_IGN)

    def stop(*_: object) -> None:
        deaf()
        signal.raise_signal(signal.SIGINT)

    before |= {number: signal.signal(number, stop) for number in stops}
    try:
        yield deaf
    finally:
        sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
