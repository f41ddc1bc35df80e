"""Every finished run stays in the store, the discarded ones too: the table that prevents the same failed path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_finetune.record.summary import finished, name_of, summary, write_run
from pytest_finetune.store import StoreError

if TYPE_CHECKING:
    from pytest_finetune.record.model import RecordedExperiment
    from pytest_finetune.suite.session import FinetuneSession


def remember_runs(
    state: FinetuneSession, record: Mapping[str, Any], experiments: Sequence[RecordedExperiment]
) -> None:
    """Keep a summary of each experiment's run; what cannot be written is a warning of the store's."""
    for one in filter(finished, experiments):
        try:
            write = partial(write_run, record=record, one=one)
            state.store.commit("records", name_of(one), write, summary(record, one))
        except StoreError as error:
            state.store.warnings.append(f"{error}; `pytest-finetune history` will not show this run")
