"""How several processes deal out the rows: each optimizer step sees those that one process would see."""

from __future__ import annotations

from collections.abc import Iterator

from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, Sampler

from pytest_finetune.experiment import Launcher, Training
from pytest_finetune.experiment.launcher import share_of, unshared
from pytest_finetune.training.processes.ranks import SharedOrder, with_filler


def steps_of(batches: list[list[int]], accumulation: int) -> Iterator[list[int]]:
    """Join the batches of each optimizer step."""
    for start in range(0, len(batches), accumulation):
        yield [row for batch in batches[start : start + accumulation] for row in batch]


def alone(rows: int, batch: int, accumulation: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the rows of each optimizer step of one process, as accelerate deals them to it."""
    order = SeedableRandomSampler(range(rows), data_seed=seed)
    order.set_epoch(epoch)
    return list(steps_of(list(BatchSampler(order, batch, drop_last=False)), accumulation))


def together(order: Sampler[int], training: Training) -> list[list[int]]:
    """Return the rows of each optimizer step of all processes, as accelerate deals them out."""
    share, processes = share_of(training), training.launcher.processes
    dealt = [
        list(
            steps_of(
                list(BatchSamplerShard(BatchSampler(order, share.batch, False), processes, rank)),
                share.accumulation,
            )
        )
        for rank in range(processes)
    ]
    assert len({len(steps) for steps in dealt}) == 1, (
        "a process with fewer steps would leave the others waiting"
    )
    return [[row for part in parts for row in part] for parts in zip(*dealt, strict=True)]


@settings(deadline=None)
@given(
    rows=st.integers(min_value=1, max_value=70),
    batch=st.sampled_from([1, 2, 3, 4, 6]),
    accumulation=st.sampled_from([1, 2, 3, 4, 8]),
    processes=st.integers(min_value=2, max_value=4),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    epoch=st.integers(min_value=0, max_value=3),
)
def test_every_step_of_all_processes_has_the_rows_that_one_process_would_see(
    rows: int, batch: int, accumulation: int, processes: int, seed: int, epoch: int
) -> None:
    training = Training(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        launcher=Launcher(processes),
    )
    if unshared(training) is not None:
        return
    order = SharedOrder(rows, share_of(training).batch * processes, seed, lambda: epoch)
    assert len(order) == len(list(order))
    filler = rows
    shared = [sorted(row for row in step if row != filler) for step in together(order, training)]
    assert shared == [sorted(step) for step in alone(rows, batch, accumulation, seed, epoch)]


def test_the_row_that_fills_up_is_the_shortest_and_carries_no_loss() -> None:
    rows = Dataset.from_list(
        [
            {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "row": 0},
            {"input_ids": [8, 9], "labels": [-100, 9], "row": 1},
        ]
    )
    filled = with_filler(rows)
    assert len(filled) == 3
    assert filled[:2] == rows[:2]
    assert filled[2]["input_ids"] == [8, 9]
    assert filled[2]["labels"] == [-100, -100]
