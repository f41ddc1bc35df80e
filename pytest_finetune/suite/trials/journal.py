"""What a search has tried, kept in the store after each trial: the same search goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_finetune.fingerprint import digest, flat
from pytest_finetune.suite.rules.rule_items import primary_of
from pytest_finetune.suite.rules.rule_marks import rule_digest

if TYPE_CHECKING:
    from pytest_finetune.experiment.over import Over
    from pytest_finetune.store import Store
    from pytest_finetune.suite.trials.bench import Bench


@dataclass(frozen=True, slots=True)
class Entry:
    """One trial of a search: its values, how it ended, and its losses on the development rows by tenths of it.

    `why` says why it was stopped early or failed; what a complete trial is worth stands in the store.
    """

    values: Mapping[str, Any]
    state: str
    looks: tuple[tuple[int, float], ...] = ()
    why: str = ""


class Journal:
    """The trials of one search: of an experiment, its rows, its primary rule, what is tried, and a seed."""

    def __init__(self, bench: Bench, overs: Sequence[Over], seed: int) -> None:
        self._store: Store = bench.context.store
        self._name = f"search-{_identity(bench, overs, seed)[:32]}"
        kept = self._store.last(self._name) or {"trials": []}
        self.entries = [_entry(tree) for tree in kept["trials"]]

    def add(self, entry: Entry) -> None:
        """Keep one more trial."""
        self.entries.append(entry)
        self._store.remember(self._name, {"trials": [asdict(one) for one in self.entries]})


def _entry(tree: Mapping[str, Any]) -> Entry:
    looks = tuple((int(tenth), float(loss)) for tenth, loss in tree["looks"])
    return Entry(tree["values"], tree["state"], looks, tree["why"])


def _identity(bench: Bench, overs: Sequence[Over], seed: int) -> str:
    """Digest what a trial's worth depends on, besides the values that are tried: another of it is another search."""
    base = bench.base
    fields = {
        name: value for name, value in base.training.key().fields.items() if name not in ("lora", "training")
    }
    tried = {over.key for over in overs}
    config = {
        name: base.experiment.resolved.get(name) for name in ("lora", "training", "prompt", "generation")
    }
    written = {dotted: value for dotted, value in flat(config).items() if dotted not in tried}
    return digest(
        {
            "key": fields,
            "written": written,
            "over": sorted(map(str, overs)),
            "seed": seed,
            "dev": [row.digest for row in base.dev_rows or ()],
            "rule": rule_digest(primary_of(bench.rules, "trials are judged")),
        }
    )
