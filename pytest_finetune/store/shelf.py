"""The looks of a book in memory, found by the rows that they judged: each is read once, however often it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_finetune.store.growth import Grown
from pytest_finetune.store.lines import Record


@dataclass(frozen=True, slots=True)
class Seen:
    """A look as it was written down; `rows` is None when the line that listed them is damaged.

    `judges` are the digests of the adapter and of the rules, `rows_set` names the rows and their questions.
    """

    identity: str
    rows: frozenset[str] | None = field(repr=False)
    rules: Mapping[str, str]
    k: int
    at_ns: int
    experiment: str
    unjudged: str | None
    asked: frozenset[str] = field(repr=False)
    judges: tuple[str, str]
    grown: Grown | None
    rows_set: str

    @property
    def added(self) -> bool:
        """Whether it only added rows to an earlier look, which spent for them as well."""
        return self.grown is not None and self.grown.added


class Shelf:
    """What was read of a book so far; records that are the same objects as before are not looked at again."""

    def __init__(self) -> None:
        self._rows: dict[str, frozenset[str]] = {}
        self._asked: dict[str, frozenset[str]] = {}
        self._of_row: dict[str, tuple[str, ...]] = {}
        self._of_question: dict[str, tuple[str, ...]] = {}
        self._seen: dict[int, tuple[Record, Seen]] = {}

    def looks(self, records: list[Record]) -> list[Seen]:
        """Return every look among the records, the oldest first."""
        for record in records:
            if "set" in record and record["set"] not in self._rows:
                self._place(record)
        return sorted(
            (self._look(record) for record in records if "identity" in record), key=lambda seen: seen.at_ns
        )

    def sharing(self, seen: list[Seen], rows: Iterable[str], asked: Iterable[str] = ()) -> list[Seen]:
        """Return the looks that judged any of these rows, or asked the same.

        Unknown rows count as shared: wear is never forgotten because a line was damaged.
        """
        sets = _sets(self._of_row, rows) | _sets(self._of_question, asked)
        return [one for one in seen if one.rows is None or one.rows_set in sets]

    def _place(self, record: Record) -> None:
        name = record["set"]
        self._rows[name] = frozenset(record["rows"])
        self._asked[name] = frozenset(record.get("asked") or ())
        _note(self._of_row, self._rows[name], name)
        _note(self._of_question, self._asked[name], name)

    def _look(self, record: Record) -> Seen:
        known = self._seen.get(id(record))
        if known is not None and known[0] is record and known[1].rows is not None:
            return known[1]
        made = self._made(record)
        self._seen[id(record)] = record, made  # it is kept, so that no other one gets its id
        return made

    def _made(self, record: Record) -> Seen:
        name = record["rows_set"]
        return Seen(
            identity=record["identity"],
            rows=self._rows.get(name),
            rules=record["rules"],
            k=record["k"],
            at_ns=record["at_ns"],
            experiment=record.get("experiment", ""),
            unjudged=record.get("unjudged"),
            asked=self._asked.get(name, frozenset()),
            judges=(record["adapter"], record["rules_sha256"]),
            grown=Grown.of_json(record.get("grown")),
            rows_set=name,
        )


def _note(of: dict[str, tuple[str, ...]], found: Iterable[str], name: str) -> None:
    alone = (name,)  # most rows are of one set: they share this one
    for one in found:
        of[one] = of[one] + alone if one in of else alone


def _sets(of: Mapping[str, tuple[str, ...]], found: Iterable[str]) -> set[str]:
    return {name for one in found for name in of.get(one, ())}
