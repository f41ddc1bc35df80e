"""Several processes in the experiment file: what they share, what cannot be shared, and the journey to a process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.experiment import Experiment, ExperimentError, Launcher, Training, load_experiment
from pytest_finetune.experiment.launcher import Share, share_of, shared_out, shared_words, unshared
from pytest_finetune.experiment.reading import TRAINED_BY, experiment_json, experiment_of

COUNTS = st.integers(min_value=1, max_value=48)


def training(batch: int, accumulation: int, processes: int) -> Training:
    return Training(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        launcher=Launcher(processes=processes),
    )


def read(folder: Path, launched: str, **overrides: object) -> Experiment:
    (folder / "finetune.yaml").write_text(
        "base_model: models/tiny\npeft_method: lora\nlora: {r: 4}\n"
        f"training:\n{launched}paths: {{train_file: train.jsonl, eval_file: check.jsonl}}\n"
    )
    for name in ("train.jsonl", "check.jsonl"):
        (folder / name).write_text("")
    return load_experiment(folder, "finetune.yaml", overrides)


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "share"),
    [
        (4, 8, 1, Share(4, 8)),
        (1, 8, 2, Share(1, 4)),
        (4, 2, 4, Share(2, 1)),
        (8, 1, 2, Share(4, 1)),
        (6, 4, 6, Share(2, 2)),
    ],
)
def test_accumulation_is_shared_first_and_then_the_batch(
    batch: int, accumulation: int, processes: int, share: Share
) -> None:
    assert share_of(training(batch, accumulation, processes)) == share


@given(batch=COUNTS, accumulation=COUNTS, processes=COUNTS)
def test_the_shares_are_the_effective_batch_or_there_are_none(
    batch: int, accumulation: int, processes: int
) -> None:
    asked = training(batch, accumulation, processes)
    if unshared(asked) is None:
        share = share_of(asked)
        assert share.batch * share.accumulation * processes == batch * accumulation
        assert accumulation // share.accumulation == math.gcd(accumulation, processes)
    else:
        assert batch * accumulation % processes
        with pytest.raises(ValueError, match="cannot share an effective batch"):
            share_of(asked)


@given(batch=COUNTS, accumulation=COUNTS, processes=COUNTS)
def test_every_value_that_the_message_names_works(batch: int, accumulation: int, processes: int) -> None:
    text = unshared(training(batch, accumulation, processes))
    if text is not None:
        _, counts, steps = text.replace(" processes, or gradient_accumulation_steps ", "write ").split(
            "write "
        )
        assert all(
            unshared(training(batch, accumulation, int(count))) is None for count in counts.split(" or ")
        )
        assert all(unshared(training(batch, int(step), processes)) is None for step in steps.split(" or "))


def test_what_is_shared_is_told_with_both_numbers() -> None:
    assert shared_words(training(4, 2, 4)) == (
        "gradient_accumulation_steps 2 -> 1 each, per_device_train_batch_size 4 -> 2 each, effective batch still 8"
    )


def test_the_file_says_how_many_processes(tmp_path: Path) -> None:
    assert read(tmp_path, "  launcher: {processes: 2}\n").training.launcher == Launcher(2)
    assert read(tmp_path, "  max_steps: 3\n").training.launcher == Launcher(1)
    overridden = read(tmp_path, "  max_steps: 3\n", **{"training.launcher.processes": 4})
    assert overridden.training.launcher == Launcher(4)
    assert overridden.resolved["training"]["launcher"] == {"processes": 4}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "  launcher: {processes: 3}\n",
            "finetune.yaml:5: training.launcher.processes: 3 processes cannot share an effective batch of 8 rows "
            "(per_device_train_batch_size 1 x gradient_accumulation_steps 8): write 2 or 4 processes, "
            "or gradient_accumulation_steps 6 or 9",
        ),
        ("  launcher: {processes: 0}\n", "finetune.yaml:5: training.launcher.processes: "),
        ("  launcher: {procs: 2}\n", "finetune.yaml:5: training.launcher.procs: unknown key"),
        (
            "  launcher: {processes: 2}\n  sft: {train_sampling_strategy: group_by_length}\n",
            "finetune.yaml:6: training.sft.train_sampling_strategy: contradicts launcher: {processes: 2}: the rows "
            "come in the random order that one process would take; leave one of them out",
        ),
        (
            "  launcher: {processes: 2}\n  sft: {average_tokens_across_devices: false}\n",
            "contradicts launcher: {processes: 2}: the loss is that of one process: a mean over the tokens of all",
        ),
        (
            "  shard: true\n",
            "finetune.yaml:5: training.shard: one process has nobody to share the model out to: write launcher: "
            "{processes: 2}, one for each card",
        ),
        (
            "  launcher: {processes: 2}\n  shard: true\n  optim: paged_adamw_8bit\n",
            "finetune.yaml:6: training.shard: optim paged_adamw_8bit does not update weights that are shared out: write "
            "one of torch's own (adamw_torch, adamw_torch_fused, sgd)",
        ),
        (
            "  launcher: {processes: 2}\n  shard: true\n  packing: true\n",
            "training.shard: packed rows are checked on a whole model before the first step",
        ),
        (
            "  launcher: {processes: 2}\n  shard: true\nquantization: nf4\n",
            "training.shard: a base in nf4 is not shared out: bitsandbytes keeps it in whole bytes",
        ),
        (
            "  launcher: {processes: 2}\n  shard: true\n  sft: {fsdp: full_shard}\n",
            "each process holds the whole model, or with training.shard: true its share of one; leave one of them out",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_line(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, written)
    assert said in str(caught.value)


def test_a_model_is_shared_out_only_where_the_file_says_so(tmp_path: Path) -> None:
    shared = read(tmp_path, "  launcher: {processes: 2}\n  shard: true\n")
    assert shared.training.shard
    assert shared.resolved["training"]["shard"] is True
    assert experiment_of(json.loads(json.dumps(experiment_json(shared)))).training == shared.training
    assert "shard" not in read(tmp_path, "  launcher: {processes: 2}\n").resolved["training"]


def test_the_model_is_shared_out_over_more_cards_as_long_as_they_share_the_rows_too(tmp_path: Path) -> None:
    def counts(written: str, cards: int) -> list[int]:
        wider = list(shared_out(read(tmp_path, written), cards))
        assert all(one.training.shard for one in wider)
        return [one.training.launcher.processes for one in wider]

    assert counts("  max_steps: 3\n", 1) == []
    assert counts("  max_steps: 3\n", 5) == [2, 4]
    assert counts("  launcher: {processes: 2}\n", 8) == [2, 4, 8]
    assert counts("  launcher: {processes: 2}\n  shard: true\n", 8) == [4, 8]
    assert counts("  gradient_accumulation_steps: 6\n", 8) == [2]
    assert counts("  optim: adamw_8bit\n", 8) == []


def test_one_process_may_have_what_several_may_not(tmp_path: Path) -> None:
    sft = {"train_sampling_strategy": "group_by_length"}
    written = "  sft: {train_sampling_strategy: group_by_length}\n"
    assert read(tmp_path, f"  launcher: {{processes: 1}}\n{written}").training.sft == sft


def test_an_experiment_travels_as_json_and_arrives_as_it_was(tmp_path: Path) -> None:
    sent = read(tmp_path, "  launcher: {processes: 2}\n  max_steps: 7\n  sft: {weight_decay: 0.01}\n")
    arrived = experiment_of(json.loads(json.dumps(experiment_json(sent))))
    for name in TRAINED_BY:
        assert getattr(arrived, name) == getattr(sent, name), name
        assert arrived.resolved.get(name) == sent.resolved.get(name), name
    assert (arrived.name, arrived.file, arrived.root) == (sent.name, sent.file, sent.root)


def test_an_experiment_that_arrives_broken_is_refused(tmp_path: Path) -> None:
    tree = experiment_json(read(tmp_path, "  max_steps: 7\n"))
    tree["keys"]["training"] = {**tree["keys"]["training"], "max_steps": "many"}
    with pytest.raises(ValueError, match=r"training\.max_steps: "):
        experiment_of(tree)
