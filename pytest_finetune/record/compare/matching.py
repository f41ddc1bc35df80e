"""Which held-out rows two runs have in common: by content where it is known, not by the place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_finetune.record.model import RecordedExperiment


@dataclass(frozen=True, slots=True)
class Matching:
    """The rows of two runs: pairs of ids that are one row, ids that only one run has.

    `reworded` have one id and another text: they are not the same row. `by_id` says that a run remembered no
    content, so that an id was taken for a row.
    """

    pairs: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reworded: tuple[str, ...]
    by_id: bool = False


def contents(experiment: RecordedExperiment, suite: str) -> dict[str, str]:
    """Return the digest of each row that a run held out in a suite, by id; empty where none was remembered."""
    paths = experiment.config.paths
    file = paths.suites.get(suite, "") if suite else paths.eval_file
    return {row.id: row.digest for row in experiment.held_out if row.file == file and row.digest}


def matched(a: Mapping[str, str | None], b: Mapping[str, str | None]) -> Matching:
    """Match rows, given as id -> digest (None: not known), by content; by id where the content is not known."""
    pairs = {id_: id_ for id_ in a if id_ in b and _alike(a[id_], b[id_])}
    left = {id_: digest for id_, digest in b.items() if id_ not in pairs}
    renamed: dict[str, list[str]] = {}
    for id_, digest in left.items():
        if digest is not None:
            renamed.setdefault(digest, []).append(id_)
    for id_, digest in a.items():
        if id_ not in pairs and digest is not None and renamed.get(digest):
            pairs[id_] = renamed[digest].pop(0)
    taken = set(pairs.values())
    reworded = tuple(id_ for id_ in a if id_ not in pairs and id_ in b and id_ not in taken)
    return Matching(
        pairs=tuple((id_, pairs[id_]) for id_ in a if id_ in pairs),
        only_a=tuple(id_ for id_ in a if id_ not in pairs and id_ not in reworded),
        only_b=tuple(id_ for id_ in b if id_ not in taken and id_ not in reworded),
        reworded=reworded,
        by_id=any(a[one] is None or b[other] is None for one, other in pairs.items()),
    )


def _alike(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other
