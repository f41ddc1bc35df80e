"""Looks at held-out rows, counted across sessions: rows wear out, and the decision has to know."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_finetune.fingerprint import digest
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.growth import Grown, JudgedRow
from pytest_finetune.store.lines import Lines, append, line_of
from pytest_finetune.store.shared.upstream import UpstreamError
from pytest_finetune.store.shelf import Seen, Shelf


@dataclass(frozen=True, slots=True)
class Look:
    """One judgement of one adapter's answers by one set of rules on a set of held-out rows.

    `rows` holds the digests of the rows' content, so that a copied or renamed file is the same rows. `verdicts` is
    the digest of what judges said, where there are any: judges who are asked anew are another look. `asked` are digests
    of the questions alone: rows that were retouched, or given other answers, wear on. Where rows may be added,
    `in_order` holds them as they follow each other, and `setting` is the digest of how they were asked.
    """

    adapter: str
    answers: str
    rules_sha256: str
    rows: frozenset[str] = field(repr=False)
    verdicts: str | None = None
    asked: frozenset[str] = field(default=frozenset(), repr=False)
    in_order: tuple[JudgedRow, ...] | None = field(default=None, repr=False)
    setting: str = ""

    @property
    def identity(self) -> str:
        """Digest of the whole tuple: equal for a look that only repeats another."""
        return self.unjudged if self.verdicts is None else digest([self.unjudged, self.verdicts])

    @property
    def unjudged(self) -> str:
        """The identity of this look before any judge has spoken; both together are one look."""
        return digest([self.adapter, self.answers, self.rules_sha256, self.rows])

    @property
    def subject(self) -> str:
        """Digest of what stays as it is while rows are added: the adapter, the rules, how they were asked."""
        return digest([self.adapter, self.rules_sha256, self.setting])


@dataclass(frozen=True, slots=True)
class Judged:
    """A look that was written down, as far as it is known what it judged; the oldest books name no experiment."""

    experiment: str
    k: int
    at_ns: int
    rows: frozenset[str] = field(repr=False)


class LookBook:
    """The looks of one store; a line is a look, or the rows of a set that looks name by its digest."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._lines = Lines(context, "looks", "this look is counted")
        self._shelf = Shelf()

    def earlier(self, look: Look) -> int:
        """Return k for `look`: one more than the distinct earlier looks that share a row with it.

        A look that was registered before keeps its k. Registers nothing. Raises StoreError when looks are shared
        and cannot be read: a number that may be too small would make the decision too easy.
        """
        return self._count(self._read(), look)

    def next(self, rows: frozenset[str], asked: frozenset[str], *, grow: bool = False) -> int:
        """Return k of the look that comes next at rows: one by an adapter that has not been judged on them."""
        seen = self._read()
        return self._count(_spending(seen) if grow else seen, Look("", "", "", rows, asked=asked))

    def growth(self, look: Look) -> tuple[Grown, tuple[int, ...]]:
        """Return how a look's rows were added, and how many there were at each earlier look that it belongs to."""
        seen = self._read()
        grown = self._grown(seen, look)
        sizes = {len(other.grown.rows) for other in seen if other.grown and other.grown.chain == grown.chain}
        return grown, tuple(sorted(size for size in sizes if size < len(grown.rows)))

    def sizes_before(self, rows: Sequence[str]) -> tuple[int, ...]:
        """Return how many of these rows, from the first on, were judged where rows may be added; the most first."""
        known = [seen.grown for seen in self._read_what_can_be_read() if seen.grown is not None]
        return tuple(sorted({len(grown.rows) for grown in known if grown.begins_texts(rows)}, reverse=True))

    def judged(self, rows: Iterable[str] | None = None) -> tuple[Judged, ...]:
        """Return every earlier look whose rows are known, or those at any of `rows`, the oldest first.

        It asks others for theirs where it can. Without a look, `rows` are not gone through.
        """
        seen = self._read_what_can_be_read()
        found = seen if rows is None or not seen else self._shelf.sharing(seen, rows)
        return tuple(
            Judged(one.experiment, one.k, one.at_ns, one.rows) for one in found if one.rows is not None
        )

    def register(self, look: Look, rules: Mapping[str, str] | None = None, experiment: str = "") -> int:
        """Write `look` down unless it is there, and return its k.

        `rules` maps each rule's name to the digest of its text, for `rules_seen`; `experiment` names the one that
        looked. Raises StoreError when the book cannot be written.
        """
        identity = look.identity  # a digest of all rows
        with self._lines.writing("write down a look") as stream:
            seen = self._read_what_can_be_read()
            k = self._count(seen, look)
            if all(other.identity != identity for other in seen):
                grown = None if look.in_order is None else self._grown(seen, look)
                append(stream, _new_lines(seen, look, dict(rules or {}), k, experiment, grown))
        self._lines.send()
        return k

    def rules_seen(
        self, rows: frozenset[str], asked: frozenset[str] = frozenset()
    ) -> dict[str, tuple[str, ...]]:
        """Map each rule that judged any of `rows`, or asked the same, to the digests of its texts, the oldest first."""
        texts: dict[str, dict[str, None]] = {}
        for seen in self._shelf.sharing(self._read(), rows, asked):
            for name, text in seen.rules.items():
                texts.setdefault(name, {})[text] = None
        return {name: tuple(found) for name, found in texts.items()}

    def changed_after_look(
        self, rules: Mapping[str, str], rows: frozenset[str], asked: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """Name the rules whose text is another one than at their first look at any of `rows`, or of the questions."""
        seen = self.rules_seen(rows, asked)
        return tuple(sorted(name for name, text in rules.items() if name in seen and seen[name][0] != text))

    def _read(self) -> list[Seen]:
        """Return every sound look of every machine, the oldest first."""
        try:
            return self._shelf.looks(self._lines.everywhere())
        except UpstreamError as error:
            raise StoreError(
                f"store: the earlier looks at these rows are not known: {error}; without them the decision would be "
                "too easy: run again when it can be reached, or decide on a store of your own with --finetune-store=DIR"
            ) from error

    def _read_what_can_be_read(self) -> list[Seen]:
        """Return the looks of this machine alone when the others cannot be reached: ours must be written down."""
        try:
            return self._read()
        except StoreError as error:
            self._context.warn(str(error))
            return self._shelf.looks(self._lines.here())

    def _count(self, seen: list[Seen], look: Look) -> int:
        identity = look.identity
        known = [other.k for other in seen if other.identity == identity]
        if known:
            return max(known)
        begun = {look.unjudged, *(other.unjudged for other in seen)}
        sharing = self._shelf.sharing(seen, look.rows, look.asked)
        return 1 + len({other.identity for other in sharing} - begun)

    def _grown(self, seen: list[Seen], look: Look) -> Grown:
        """Return what a look was written down as; a new one adds rows to the last of its subject, if it can."""
        known = {other.identity: other.grown for other in seen if other.grown is not None}
        judged_before = any(other.unjudged == look.unjudged for other in seen)
        mine = known.get(look.identity) or (None if judged_before else known.get(look.unjudged))
        if mine is not None:
            return mine
        rows = look.in_order or ()
        of_subject = [other.grown for other in seen if other.grown and other.grown.subject == look.subject]
        if of_subject and of_subject[-1].begins(rows):
            return Grown(look.subject, rows, of_subject[-1].chain, of_subject[-1].k, added=True)
        k = self._count(_spending(seen), look)
        sharing = self._shelf.sharing(seen, look.rows, look.asked)
        why = _why_not(sharing, look, of_subject[-1] if of_subject else None) if k > 1 else ""
        return Grown(look.subject, rows, look.identity, k, added=False, why=why)


def _spending(seen: list[Seen]) -> list[Seen]:
    return [other for other in seen if not other.added]


def _why_not(sharing: list[Seen], look: Look, last: Grown | None) -> str:
    """Say why a look is another one, and not rows added to an earlier one."""
    if last is not None:
        because = last.broken_by(look.in_order or ())
    elif any(other.judges == (look.adapter, look.rules_sha256) and other.grown is None for other in sharing):
        because = "decision.grow was declared after this adapter had been judged on them"
    else:
        because = "the earlier ones were of another adapter, rule, prompt, runtime or decision"
    return f"this is another look at rows that were judged before, not rows added to one: {because}"


def _new_lines(
    seen: list[Seen], look: Look, rules: dict[str, str], k: int, experiment: str, grown: Grown | None
) -> list[bytes]:
    rows = digest([look.rows, look.asked] if look.asked else look.rows)
    lines = []
    if all((other.rows, other.asked) != (look.rows, look.asked) for other in seen):
        asked = {"asked": sorted(look.asked)} if look.asked else {}
        lines.append(line_of({**asked, "rows": sorted(look.rows), "set": rows}))
    judged = {} if look.verdicts is None else {"unjudged": look.unjudged}
    lines.append(
        line_of(
            {
                **judged,
                "adapter": look.adapter,
                "answers": look.answers,
                "at_ns": time.time_ns(),
                "experiment": experiment,
                "k": k,
                "rules": rules,
                "rules_sha256": look.rules_sha256,
                "rows_set": rows,
                "identity": look.identity,
                **({} if grown is None else {"grown": grown.as_json()}),
            }
        )
    )
    return lines
