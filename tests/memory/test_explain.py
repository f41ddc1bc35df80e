"""The message of a failed assertion, and the remedies behind it, planned by a planner that knows the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_finetune.experiment import Launcher, Training
from pytest_finetune.experiment.launcher import share_of
from pytest_finetune.memory.hardware.cards import TURING, UNKNOWN
from pytest_finetune.memory.hardware.detect import Budget, Process, parse_budget
from pytest_finetune.memory.hardware.sizes import GiB
from pytest_finetune.memory.plan import planner as planning
from pytest_finetune.memory.plan.explain import as_json, explain, grouped, on_more_cards, tightest
from pytest_finetune.memory.plan.figures import Figures, Held
from pytest_finetune.memory.plan.plan import MemoryPlan, for_family
from pytest_finetune.memory.plan.planner import Answer, Limit, Planner
from pytest_finetune.memory.plan.remedies import changes, find_remedies
from pytest_finetune.memory.plan.weights import Files
from pytest_finetune.memory.plan.workload import Workload


@pytest.fixture
def tiny_config(tiny_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The small model with layers to take away: a smaller base is one of the remedies."""
    return {**tiny_config, "num_hidden_layers": 4}


class Formula(Planner):
    """A planner that computes instead of tracing: activations by tokens and batch, weights by layers and bits."""

    def __init__(self) -> None:
        super().__init__(None)
        self.asked: list[Workload] = []

    def climb(
        self,
        ladders: Sequence[Sequence[Workload]],
        limit: Limit | None = None,
        files: Files | None = None,
    ) -> list[list[Answer]]:
        return [[self.answer(workload) for workload in ladder] for ladder in ladders]

    def answer(self, workload: Workload) -> Figures:
        self.asked.append(workload)
        weights = workload.depth * GiB // (4 if workload.quantization == "nf4" else 1)
        activations = workload.tokens * workload.batch * GiB // 256
        if workload.checkpointing:
            activations //= 4
        optimizer = 0 if "8bit" in workload.optimizer else GiB // 2
        total = weights + activations + optimizer
        return Figures(
            held={UNKNOWN.cublas_bytes: Held(total, total, total), 8320 * 1024: Held(total, total, total)},
            parts={"frozen weights": weights, "activations": activations, "optimizer": optimizer},
            phase="backward",
            layer=1,
            phases={},
            parameters=1,
            trainable=1,
            resident=weights,
            traced_layers=4,
            layers=4,
        )


def planned(config: Mapping[str, Any], *, longest: int | None = 411, **changed: Any) -> MemoryPlan:
    """Return a plan of 4 GiB of weights and 16 of activations, unless changed."""
    workload = Workload(config=config, tokens=512, batch=8).changed(**changed)
    workloads = [workload, for_family(workload, TURING)]
    figures, turing = Formula().each(workloads)
    return MemoryPlan(workload, figures, longest, traced=((workloads[1], turing),))


def test_the_message_has_verdict_breakdown_changes_and_the_other_card(tiny_config: Mapping[str, Any]) -> None:
    assert explain(planned(tiny_config), parse_budget("14GiB"), Formula()) == [
        "adapter does not fit: needs 21.1 GiB, the budget is 12.9 GiB (a card with 14GiB, 8% headroom kept)",
        "  activations 16.0 | weights 4.0 | context 0.6 | adapter and optimizer 0.5"
        "        (predicted; batch 8, 512 tokens)",
        "  one change that is enough:  per_device_train_batch_size 2 -> 9.1 GiB"
        "   (with gradient_accumulation_steps 4: the same effective batch)",
        "                              gradient_checkpointing true -> 9.1 GiB"
        "   (computes each layer twice: 1.5 times the work)",
        "  or, at a cost:              max_seq_length 128 -> 9.1 GiB   (it cuts rows: your longest has 411 tokens)",
        "  the peak is in the backward, layer 1",
        "  to judge another card: --finetune-budget=24GiB",
    ]


def test_more_cards_are_said_to_help_as_little_as_they_do(tiny_config: Mapping[str, Any]) -> None:
    plan = replace(planned(tiny_config), processes=4)
    said = next(line for line in explain(plan, parse_budget("14GiB"), Formula()) if "launcher" in line)
    assert said == (
        "  training.launcher makes it no smaller: each process holds the whole model; with training.shard: true they "
        "share it out, which divides 4.5 GiB by the number of cards and leaves 16.0 GiB on each, and takes what a layer "
        "needs whole"
    )
    assert "launcher" not in "".join(explain(plan, parse_budget("80GiB"), Formula()))
    packed = replace(plan, workload=plan.workload.changed(quantization="nf4"))
    assert on_more_cards(packed).endswith("on each, but not for a base in nf4")
    shared = replace(plan, workload=plan.workload.changed(ranks=4))
    assert on_more_cards(shared) == "that is the share of one of 4 cards already"


def test_the_same_training_over_the_fewest_cards_that_hold_it_is_offered_last(
    tiny_config: Mapping[str, Any],
) -> None:
    plan = planned(tiny_config)
    spreads = tuple(plan.workload.changed(ranks=ranks, batch=8 // ranks) for ranks in (2, 4, 8))
    plan = replace(plan, spreads=spreads, processes=4)
    remedies = find_remedies(plan, 10 * GiB, Formula())
    (over,) = remedies.over
    assert remedies.all[-1] == over
    assert over.as_json() == {
        "change": "launcher {processes: 4} and shard true",
        "keys": {"training.launcher.processes": 4, "training.shard": True},
        "peak_bytes": over.peak_bytes,
        "needed_bytes": over.needed_bytes,
        "enough": True,
        "note": "on each of 4 cards; not measured on cards",
        "pair": False,
        "cuts": False,
        "cards": 4,
    }
    assert "cards" not in remedies.singles[0].as_json()
    lines = explain(plan, 10 * GiB, Formula())
    assert (
        "  or, over several cards:     launcher {processes: 4} and shard true -> 9.1 GiB"
        "   (on each of 4 cards; not measured on cards)"
    ) in lines
    assert not any("makes it no smaller" in line for line in lines)
    assert find_remedies(replace(plan, family=TURING), 10 * GiB, Formula()).over == ()


def test_what_cannot_be_shared_out_is_not_offered_to_those_who_share(tiny_config: Mapping[str, Any]) -> None:
    shared = planned(tiny_config, ranks=2)
    offered = {ladder[0].kind for ladder in changes(shared.workload, None) if ladder}
    assert not {"quantization", "optimizer"} & offered


def test_the_card_that_the_message_names_is_large_enough(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    named = explain(plan, parse_budget("14GiB"), Formula())[-1].rpartition("=")[2]
    assert plan <= parse_budget(named)


def test_a_plan_that_fits_says_so_and_seeks_no_remedy(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    lines = explain(plan, parse_budget("80GiB"), Formula())
    assert lines[0].startswith("adapter fits: needs 21.1 GiB, the budget is 73.6 GiB")
    assert len(lines) == 2


def test_changes_come_in_the_fixed_order(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    kinds = [ladder[0].kind for ladder in changes(plan.workload, 411) if ladder]
    assert kinds == ["length", "batch", "checkpointing", "optimizer", "quantization", "base"]


def test_the_rank_is_never_offered(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    for ladder in changes(plan.workload, None):
        for change in ladder:
            assert change.workload.adapter is not None
            assert change.workload.adapter.rank == plan.workload.adapter.rank  # type: ignore[union-attr]


def test_a_sequence_length_is_cut_to_the_rows_first(tiny_config: Mapping[str, Any]) -> None:
    first = next(iter(changes(planned(tiny_config).workload, 411)))[0]
    assert (first.words, first.note) == ("max_seq_length 411", "your longest row has 411 tokens")


def test_a_smaller_batch_keeps_the_effective_batch(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config, accumulation=4)
    for ladder in changes(plan.workload, None):
        for change in ladder:
            if change.kind == "batch":
                assert change.workload.batch * change.workload.accumulation == 32


def test_a_smaller_batch_of_each_of_several_processes_is_written_as_what_all_of_them_share(
    tiny_config: Mapping[str, Any],
) -> None:
    plan = planned(tiny_config, accumulation=2)  # of each of 4 processes: 8 x 2 x 4 rows a step
    batches = [
        change for ladder in changes(plan.workload, None, 4) for change in ladder if change.kind == "batch"
    ]
    assert batches
    for change in batches:
        training = Training(
            launcher=Launcher(processes=4),
            **{key.partition(".")[2]: value for key, value in change.keys.items()},
        )
        assert share_of(training) == (change.workload.batch, change.workload.accumulation)
        assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 64
        assert f"gradient_accumulation_steps {training.gradient_accumulation_steps}:" in change.note


@pytest.mark.parametrize(
    "already",
    [{"checkpointing": True}, {"batch": 1}, {"quantization": "nf4"}, {"optimizer": "paged_adamw_8bit"}],
)
def test_what_is_already_so_is_not_offered(already: dict[str, Any], tiny_config: Mapping[str, Any]) -> None:
    kind = {
        "checkpointing": "checkpointing",
        "batch": "batch",
        "quantization": "quantization",
        "optimizer": "optimizer",
    }
    plan = planned(tiny_config, **already)
    offered = {ladder[0].kind for ladder in changes(plan.workload, None) if ladder}
    assert kind[next(iter(already))] not in offered


def test_changes_are_joined_only_when_no_single_one_is_enough_and_before_a_smaller_model(
    tiny_config: Mapping[str, Any],
) -> None:
    plan = planned(tiny_config)
    assert find_remedies(plan, 14 * GiB, Formula()).joined == ()
    tight = find_remedies(plan, 6 * GiB, Formula())
    assert not any(remedy.enough for remedy in tight.singles)
    assert [remedy.change for remedy in tight.joined] == [
        "gradient_checkpointing true and per_device_train_batch_size 1",
        "peft_method qlora and per_device_train_batch_size 1",
    ]
    assert tight.joined[1].keys == {
        "peft_method": "qlora",
        "quantization": "nf4",
        "training.per_device_train_batch_size": 1,
        "training.gradient_accumulation_steps": 8,
    }


def test_three_changes_are_joined_where_two_are_not_enough(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config, tokens=4096, longest=4096, batch=2)  # 32 GiB of activations
    joined = find_remedies(plan, 8 * GiB, Formula()).joined
    assert [(remedy.change.count(" and "), remedy.enough) for remedy in joined] == [(2, True)]
    assert joined[0].change.startswith("gradient_checkpointing true and peft_method qlora and per_device")
    lines = explain(plan, 8 * GiB, Formula())
    assert "together enough:" in lines[3]


def test_the_best_of_what_is_not_enough_is_still_named(tiny_config: Mapping[str, Any]) -> None:
    lines = explain(planned(tiny_config), GiB, Formula())
    assert lines[2].startswith("  no single change that keeps rows and model is enough")
    assert "the best, not enough:" in lines[3]


def test_remedies_agree_with_planning_again_by_hand(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    remedies = find_remedies(plan, 14 * GiB, Formula())
    checkpointing = next(
        remedy for remedy in remedies.singles if remedy.change == "gradient_checkpointing true"
    )
    again = planned(tiny_config, checkpointing=True)
    assert (checkpointing.needed_bytes, checkpointing.peak_bytes) == (again.needed_bytes, again.peak_bytes)


def test_all_single_changes_are_traced_in_one_process_as_are_all_pairs_and_all_triples(
    tiny_config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[int] = []

    def traced(ladders: Sequence[Sequence[Workload]], limit: Limit | None) -> list[list[Answer]]:
        processes.append(len(ladders))
        return Formula().climb(ladders, limit)

    monkeypatch.setattr(planning, "trace_elsewhere", traced)
    for usable, expected in ((14 * GiB, 1), (5 * GiB, 2), (3 * GiB, 3)):
        processes.clear()
        planner = Planner(None)
        assert find_remedies(planned(tiny_config), usable, planner).enough
        assert len(processes) == expected
        find_remedies(planned(tiny_config), usable, planner)  # what is known is not traced again
        assert len(processes) == expected


def test_the_tightest_constraint_is_the_largest_group(tiny_config: Mapping[str, Any]) -> None:
    assert tightest(planned(tiny_config)) == "activations"
    assert tightest(planned(tiny_config, tokens=16)) == "weights"


def test_the_groups_hold_the_whole_peak(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    assert sum(grouped(plan).values()) == plan.peak_bytes


def test_a_crowded_card_is_reported(tiny_config: Mapping[str, Any]) -> None:
    budget = Budget("NVIDIA L4", "cuda", 22 * GiB, 6 * GiB, processes=(Process(42, "python3", 16 * GiB),))
    lines = explain(planned(tiny_config), budget, Formula())
    assert lines[2] == "  16.0 GiB of 22.0 GiB are taken by others: python3 (pid 42) 16.0 GiB"


def test_the_record_holds_verdict_numbers_and_remedies(tiny_config: Mapping[str, Any]) -> None:
    tree = as_json(planned(tiny_config), parse_budget("14GiB"), Formula())
    assert tree["fits"] == "does not fit"
    assert tree["predicted_peak_bytes"] == sum(tree["breakdown"].values())
    found = {remedy["change"]: (remedy["enough"], remedy["cuts"]) for remedy in tree["remedies"]}
    assert list(found.values()) == [
        (False, False),
        (True, False),
        (True, False),
        *[(False, False)] * 2,
        (True, True),
        (False, True),
    ]
    assert list(found)[-2:] == ["max_seq_length 128", "a smaller base_model (half of the layers)"]
    unjudged = as_json(planned(tiny_config), None, Formula())
    assert (unjudged["fits"], unjudged["budget_bytes"], unjudged["remedies"]) == (None, None, [])


def test_bytes_are_judged_without_headroom(tiny_config: Mapping[str, Any]) -> None:
    assert explain(planned(tiny_config), 1 * GiB, Formula())[0].endswith(
        "the budget is 1.0 GiB (given in bytes)"
    )


def test_a_card_without_bfloat16_and_flash_is_planned_for_what_it_can(tiny_config: Mapping[str, Any]) -> None:
    plan = planned(tiny_config)
    judged = plan.on(parse_budget("t4").family)
    assert (judged.workload.dtype, judged.workload.autocast, judged.workload.attention) == (
        "float16",
        "float16",
        "efficient",
    )
    assert replace(judged, family=UNKNOWN).workload is judged.workload
