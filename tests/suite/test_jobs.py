"""What a job may make in place of what was asked for, what its request may hold, and which card it asks for."""

from __future__ import annotations

import dataclasses
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.config import PytestPluginManager

from pytest_finetune.answering.arm_plans import BASELINE, planned
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.data.formatting import Pair
from pytest_finetune.executors.command import filled
from pytest_finetune.executors.protocol import Submission
from pytest_finetune.experiment import Launcher, MergedSettings, RuntimeSettings, ServerSettings
from pytest_finetune.fingerprint import Key
from pytest_finetune.memory.hardware.cards import find_card
from pytest_finetune.memory.plan.remedies import Remedy
from pytest_finetune.suite import device
from pytest_finetune.suite.jobs.agreement import as_made, disagreement, is_asked_for, worded
from pytest_finetune.suite.jobs.requests import (
    StepRefused,
    ToAnswer,
    ToTrain,
    can_be_sent,
    divergence,
    questions,
    read,
    training,
    with_head,
)
from pytest_finetune.suite.jobs.resources import chosen_card, minutes, remember_time, resources
from pytest_finetune.suite.jobs.running import _stopping
from pytest_finetune.suite.session import FinetuneSession
from pytest_finetune.suite.steps.making import Lesson, Ordered

from .conftest import World

GiB = 2**30
ASKED = {
    "environment": {"torch": "2.13", "peft": "0.21"},
    "device_class": "cuda:l4",
    "dtype": "card",
    "pairs": 3,
}


@pytest.mark.parametrize(
    ("asked", "found", "total_gib", "same"),
    [
        ("cpu", "cpu", 64, True),
        ("cpu", "cuda:NVIDIA L4", 22, False),
        ("cuda", "cuda:NVIDIA L4", 22, True),
        ("cuda:l4", "cuda:NVIDIA L4", 22, True),
        ("cuda:l4", "cuda:NVIDIA L40S", 44, False),
        ("cuda:rtx-4090", "cuda:NVIDIA GeForce RTX 4090", 24, True),
        ("cuda:rtx-3060", "cuda:NVIDIA GeForce RTX 3060 Ti", 8, False),
        ("cuda:a100-80", "cuda:NVIDIA A100-SXM4-40GB", 40, False),
        ("cuda:h100", "cuda:Some Unknown Card", 80, False),
    ],
)
def test_a_card_is_asked_for_by_our_name_and_known_by_its_drivers(
    asked: str, found: str, total_gib: int, same: bool
) -> None:
    assert is_asked_for(asked, found, total_gib * GiB) is same


@pytest.mark.parametrize(
    ("change", "reuse", "wrong"),
    [
        ({"device_class": "cuda:NVIDIA L4"}, "exact", []),
        ({"device_class": "cuda:NVIDIA H100 80GB HBM3"}, "exact", ["device_class"]),
        ({"environment": {"torch": "2.11", "peft": "0.21"}}, "exact", ["environment.torch"]),
        (
            {"environment": {"torch": "2.11", "peft": "0.21"}, "device_class": "cpu", "dtype": "float32"},
            "semantic",
            [],
        ),
        ({"pairs": 4}, "semantic", ["pairs"]),
    ],
)
def test_other_versions_are_taken_only_where_they_are_allowed_and_other_rows_never(
    change: dict[str, Any], reuse: str, wrong: list[str]
) -> None:
    found = disagreement(Key.of(ASKED), {**ASKED, **change}, 22 * GiB, reuse=reuse)
    assert list(found) == wrong
    if wrong == ["environment.torch"]:
        assert worded(found) == "environment.torch: asked for 2.13, found 2.11"


def test_the_key_of_the_record_is_that_of_the_card_that_the_job_found() -> None:
    asked, made = Key.of(ASKED), {**ASKED, "device_class": "cuda:NVIDIA L4"}
    assert as_made(asked, made) == Key.of(made)
    assert as_made(asked, {**made, "pairs": 4}) == asked


def order() -> Ordered:
    lesson = Lesson(
        (Pair("a ->", " b"), Pair([{"role": "user", "content": "q"}], [])), (), {"date": "x"}, {"n": 1}
    )
    return Ordered(lesson, ("t:1", "t:2", "r:1"), (Pair("c", "d"),), "00", 2, (Pair("e", "f"),), {"rows": 1})


def test_a_training_comes_out_of_its_request_as_it_went_in(world: World, tmp_path: Path) -> None:
    experiment, key = world.experiment(), Key.of(ASKED)
    tree = with_head(training(experiment, order(), 40), key, experiment, "auto", "exact")
    found = read(tree, key.value, tmp_path)
    assert isinstance(found, ToTrain)
    assert (found.ordered, found.longest, found.head.asked) == (order(), 40, key)
    assert (found.head.experiment.root, found.head.experiment.training) == (tmp_path, experiment.training)


def test_the_questions_of_an_arm_come_out_as_they_went_in(world: World, tmp_path: Path) -> None:
    context = world.context()
    experiment, key = context.experiment, Key.of(ASKED)
    prompts = arm_prompts(world.run().rows_of(None), experiment.prompt)
    plan = planned(experiment)[BASELINE]
    asked = questions(plan, experiment, None, prompts, None, [4], random=False)
    found = read(with_head(asked, key, experiment, "cuda", "semantic"), key.value, tmp_path)
    assert isinstance(found, ToAnswer)
    assert (found.plan, found.adapter, found.sizes_before) == (plan, None, (4,))
    assert [one.fields() for one in found.prompts] == [one.fields() for one in prompts]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "has schema 2, this pytest-finetune reads 1"),
        ({"does": "shell"}, "the request is none: KeyError: 'shell'"),
        ({"rows": ["t:1"]}, "3 rows but 1 places"),
        ({"device": "cuda:0; rm"}, "the request is none: ValueError: device"),
        ({"asked": {"pairs": 9}}, "the request asks for"),
        ({"experiment": {"name": "x", "file": "f", "root": "/", "keys": {"task": 3}}}, "the request is none"),
    ],
)
def test_a_request_that_is_none_is_refused_in_words(
    world: World, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    experiment, key = world.experiment(), Key.of(ASKED)
    tree = with_head(training(experiment, order(), 40), key, experiment, "auto", "exact")
    with pytest.raises(StepRefused, match=re.escape(said)):
        read({**tree, **change}, key.value, tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"trust_remote_code": True}, "no job does that because a store says so"),
        (
            {"training": {"sft": {"model_init_kwargs": {"trust_remote_code": True}}}},
            "model_init_kwargs is not taken",
        ),
        ({"training": {"sft": {"push_to_hub": True}}}, "push_to_hub is not taken from a store"),
        (
            {"training": {"sft": {"extra": {"auto_map": "evil.py"}}}},
            "extra.auto_map is not taken from a store",
        ),
    ],
)
def test_nothing_that_would_run_code_is_taken_from_a_store(
    world: World, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    experiment, key = world.experiment(), Key.of(ASKED)
    tree = with_head(training(experiment, order(), None), key, experiment, "auto", "exact")
    tree["experiment"] = {**tree["experiment"], "keys": {**tree["experiment"]["keys"], **keys}}
    with pytest.raises(StepRefused, match=re.escape(said)):
        read(tree, key.value, tmp_path)


CARDS = "executor: {cards: [t4, l4, h100], minutes: 45}\n"


def test_the_first_listed_card_that_holds_the_plan_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = world.context(CARDS)
    assert needing(monkeypatch, 18, context) == ("l4", None)
    assert needing(monkeypatch, 60, context) == ("h100", None)
    name, refusal = needing(monkeypatch, 90, context)
    assert name == "h100"
    assert refusal is not None
    assert refusal.startswith(
        "no listed card holds this training: t4 has 13.4 GiB of the 90.0 GiB needed, l4 has"
    )
    assert "pytest-finetune plan --budget h100" in refusal
    assert refusal.endswith("no larger number of cards helps")


def test_a_training_that_no_card_holds_is_offered_over_several_of_them_and_asks_for_as_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Remedy("both", {}, 50 * GiB, 50 * GiB, enough=True, cards=4)
    name, refusal = needing(monkeypatch, 90, world.context(CARDS), over={"l4": None, "h100": over})
    assert name == "h100"
    assert refusal is not None
    assert refusal.endswith(
        "or share it out over 4 of h100, 50.0 GiB on each (planned, not measured on cards): "
        "training: {launcher: {processes: 4}, shard: true}"
    )
    context = world.context(CARDS)
    context = dataclasses.replace(
        context,
        experiment=dataclasses.replace(
            context.experiment,
            training=dataclasses.replace(context.experiment.training, launcher=Launcher(4), shard=True),
        ),
    )
    monkeypatch.setattr(
        "pytest_finetune.suite.jobs.resources.planned",
        lambda *_: Planned(18 * GiB, ranks=4, resident=3 * GiB),
    )
    chosen = chosen_card(context, 10)
    asked = resources(context, chosen, "adapters", "cuda")
    assert (asked.card, asked.gpus) == ("l4", 4)
    assert asked.memory == 4 * 4 * 3 + 8, (
        "each of four processes reads the base, which is four shares of 3 GiB"
    )
    step = Submission("ab", "/store", "a training", asked, Path(), Path())
    assert filled("run --gpus {card}:{gpus} --memory {memory}", step)[2:] == ["l4:4", "--memory", "56"]
    assert resources(context, chosen, "outputs", "cuda").gpus == 1


@dataclasses.dataclass
class Planned:
    """A plan that needs so many bytes on each card."""

    needed_bytes: int
    ranks: int = 1
    resident: int = 0

    def __post_init__(self) -> None:
        self.workload = SimpleNamespace(ranks=self.ranks)
        self.figures = SimpleNamespace(resident=self.resident)

    def on(self, family: object) -> Planned:
        return self

    def verdict(self, budget: Any) -> str:
        return "fits" if self.needed_bytes <= budget.usable_bytes else "does not fit"


def needing(
    monkeypatch: pytest.MonkeyPatch, gib: int, context: Any, over: dict[str, Remedy | None] | None = None
) -> tuple[str, str | None]:
    """Choose a card for a training that needs so much, or can be shared out over cards as `over` says."""
    room = "pytest_finetune.suite.jobs.resources"
    offered = {find_card(name).name: remedy for name, remedy in (over or {}).items()}
    monkeypatch.setattr(f"{room}.on_more_cards", lambda plan: "no larger number of cards helps")
    monkeypatch.setattr(f"{room}.over_cards", lambda plan, budget, planner: offered.get(budget.name))
    monkeypatch.setattr(f"{room}.planned", lambda *_: Planned(gib * GiB))
    chosen = chosen_card(context, 10)
    assert chosen is not None
    asked = resources(context, chosen, "adapters", chosen.device)
    assert (asked.card, asked.gpus, asked.memory >= gib) == (chosen.name, 1, True)
    return chosen.name, chosen.refusal


def test_the_time_limit_is_what_the_last_such_step_took_else_the_stated_guess(world: World) -> None:
    assert minutes(world.context(), "adapters") == 60
    context = world.context(CARDS)
    assert minutes(context, "adapters") == 45
    remember_time(context, "adapters", 3600.0)
    assert (minutes(context, "adapters"), minutes(context, "outputs")) == (100, 45)


@pytest.mark.parametrize(("executor", "leases"), [("local", 1), ("command: go {step}", 0)])
def test_a_worker_leases_no_card_of_this_machine_for_work_that_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, executor: str, leases: int
) -> None:
    asked: list[int | None] = []

    def lease(index: int | None, *_: object) -> None:
        asked.append(index)

    monkeypatch.setattr(device, "lease_gpu", lease)
    monkeypatch.setattr(device, "accelerator", lambda: "cuda")
    settings = SimpleNamespace(executor=executor, device="auto", experiments=(), finetune=False)
    config = SimpleNamespace(workerinput={"workerid": "gw7"}, args=(), pluginmanager=PytestPluginManager())
    session = FinetuneSession(config, settings)  # type: ignore[arg-type]
    assert session.chosen.name == "cuda"
    assert len(asked) == leases


def test_an_engine_that_asks_twice_stops_a_step_once_and_lets_it_tell_its_end() -> None:
    """Slurm signals every process of a job, and submitit the step again; a second Ctrl-C would seal no checkpoint."""
    asked: list[str] = []
    with _stopping() as hear_no_more:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR2)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.raise_signal(number)
        asked.append("sealed")
    with _stopping() as hear_no_more:
        hear_no_more()
        signal.raise_signal(signal.SIGTERM)
        asked.append("told")
    assert asked == ["sealed", "told"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        (None, True),
        (MergedSettings("bfloat16"), True),
        (ServerSettings(url="http://here:8000"), False),
        (ServerSettings(serve=("rm", "-rf", "/")), False),
    ],
)
def test_a_merged_model_is_asked_in_a_job_and_a_server_never(
    world: World, settings: RuntimeSettings | None, sent: bool
) -> None:
    named = {} if settings is None else {"second": settings}
    experiment = dataclasses.replace(world.experiment(), runtime_settings=named)
    context = dataclasses.replace(world.context(), experiment=experiment)
    assert can_be_sent(context, "second", None) is sent
    assert can_be_sent(context, "second", Path("elsewhere")) is False


def test_no_job_starts_a_server_that_a_store_names(world: World, tmp_path: Path) -> None:
    experiment, key = world.experiment(), Key.of(ASKED)
    plan = dataclasses.replace(planned(experiment)[BASELINE], runtime="evil")
    tree = with_head(
        questions(plan, experiment, None, (), None, (), random=False), key, experiment, "cpu", "exact"
    )
    tree["experiment"]["keys"]["runtimes"] = [
        {"name": "evil", "openai": {"serve": ["touch", "{model}", "{port}"]}}
    ]
    with pytest.raises(
        StepRefused, match="'evil' is a server, and no job starts or asks one because a store"
    ):
        read(tree, key.value, tmp_path)


def test_a_merged_model_comes_out_of_a_request_as_it_was_asked_for(world: World, tmp_path: Path) -> None:
    experiment, key = (
        world.experiment("runtimes: [transformers, {merged: {dtype: float16}}]\n"),
        Key.of(ASKED),
    )
    plan = dataclasses.replace(planned(experiment)[BASELINE], runtime="merged")
    arm = questions(plan, experiment, None, (), None, (), random=False)
    keys = ("ab" * 32, "cd" * 32, "ef" * 32)
    for asked in (arm, divergence(experiment, "merged", *keys, prompts=())):
        found = read(with_head(asked, key, experiment, "cpu", "exact"), key.value, tmp_path)
        assert found.head.experiment.runtime_settings == {"merged": MergedSettings("float16")}
