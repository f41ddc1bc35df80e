"""Checks between rows: repetitions, conflicts and leaks, by normalised question, n-grams and shingles."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.corpus import Corpus, Vocabulary
from pytest_finetune.data.similarity import Similar, contained_across, similar_across, similar_within
from pytest_finetune.data.words import words_of

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules, LeakageRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows

_SHOWN: Final = 3


def check_splits(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield rows that repeat or contradict another, inside a split and across both."""
    vocabulary = Vocabulary()
    asked = _Questions(train, vocabulary)
    tested = _Questions(held_out, vocabulary)
    yield from asked.repetitions()
    yield from tested.repetitions()
    leaked: set[int] = set()
    for number, row in enumerate(held_out):
        if twins := asked.rows_like(row):
            leaked.add(number)
            yield _exact_leak(row, twins)
    yield from _similar(contract.leakage, asked, tested, leaked)


def check_groups(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield held-out rows whose group has training rows."""
    if contract.leakage.groups == "allow":
        return
    trained: dict[str, list[Row]] = defaultdict(list)
    for row in train:
        if row.group is not None:
            trained[row.group].append(row)
    for row in held_out:
        if row.group is not None and row.group in trained:
            read = f"the group {row.group!r} has training rows: {_listed(trained[row.group])}"
            yield _at(row, "leak/group", read)


def check_dev_rows(
    contract: ContractRules, dev: Rows, others: Sequence[tuple[str, Rows]]
) -> Iterator[Finding]:
    """Yield development rows whose question, or whose group, stands in another file; `others` say what they are for."""
    vocabulary, rules = Vocabulary(), contract.leakage
    chosen = _Questions(dev, vocabulary)
    yield from chosen.repetitions()
    for use, rows in others:
        known, found = _Questions(rows, vocabulary), set[int]()
        groups = {row.group: row for row in rows if row.group is not None and rules.groups != "allow"}
        for number, row in enumerate(dev):
            if twins := known.rows_like(row):
                found.add(number)
                yield _at(row, "leak/dev", f"the question is {use}: {_listed(twins)}")
            elif row.group in groups:
                found.add(number)
                yield _at(row, "leak/dev", f"the group {row.group!r} is {use}: {groups[row.group].place}")
        if rules.near_duplicate is None:
            continue
        pairs = similar_across(chosen.corpus, known.corpus, rules.shingle_words, rules.near_duplicate)
        for number, alike in _by_left(pairs, found):
            places = _listed(rows[pair.right] for pair in alike)
            read = f"similarity {alike[0].similarity:.2f} to a row that is {use}: {places}"
            yield _at(dev[number], "leak/dev", read)


class _Questions:
    """The rows of one file by their normalised question."""

    def __init__(self, rows: Rows, vocabulary: Vocabulary) -> None:
        self.rows = rows
        self.corpus = Corpus(vocabulary)
        self._instructions: dict[str, list[str]] = {}
        # A hash for each row instead of its text, for memory; equal hashes are confirmed.
        self._first: dict[int, int] = {}
        self._others: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            words = words_of(row.input)
            instruction = self._instruction(row)
            self.corpus.add(words if row.input.strip() else instruction)
            key = hash(_key(row, instruction, words))
            if self._first.setdefault(key, number) != number:
                self._others.setdefault(key, []).append(number)

    def key(self, row: Row) -> tuple[str, str]:
        """Return what two rows have in common that ask the same."""
        return _key(row, self._instruction(row), words_of(row.input))

    def rows_like(self, row: Row) -> list[Row]:
        """Return the rows of this file with the same question."""
        wanted = self.key(row)
        key = hash(wanted)
        if key not in self._first:
            return []
        found = [self.rows[number] for number in (self._first[key], *self._others.get(key, ()))]
        return [other for other in found if self.key(other) == wanted]

    def repetitions(self) -> Iterator[Finding]:
        """Yield each row whose question stands earlier in the file, with the same answer or with another."""
        for key, others in self._others.items():
            earlier = [self.rows[self._first[key]]]
            for number in others:
                row = self.rows[number]
                twins = [other for other in earlier if self.key(other) == self.key(row)]
                if twins:
                    yield _repetition(row, twins)
                earlier.append(row)

    def repeated(self) -> list[int]:
        """Return the numbers of rows that stand earlier in the file."""
        return [number for others in self._others.values() for number in others]

    def _instruction(self, row: Row) -> list[str]:
        words = self._instructions.get(row.instruction)
        if words is None:
            words = self._instructions[row.instruction] = words_of(row.instruction)
        return words


def _key(row: Row, instruction: list[str], words: list[str]) -> tuple[str, str]:
    """Return instruction and input by their words (a text without any, only signs, as it is), and the tools offered."""
    asked = " ".join(instruction) or row.instruction.strip(), " ".join(words) or row.input.strip()
    return (f"{json.dumps(row.tools)}{asked[0]}", asked[1]) if row.tools else asked


def _repetition(row: Row, twins: Sequence[Row]) -> Finding:
    same = [other for other in twins if _answer(other) == _answer(row)]
    if same:
        return _at(row, "data/duplicate-row", f"the question and answer of line {same[0].line}")
    return _at(row, "data/conflict", f"the question of line {twins[0].line} with another answer")


def _exact_leak(row: Row, twins: Sequence[Row]) -> Finding:
    if any(_answer(other) == _answer(row) for other in twins):
        return _at(row, "leak/exact", f"the question is trained on: {_listed(twins)}")
    return _at(row, "leak/conflict", f"the question is trained on with another answer: {_listed(twins)}")


def _similar(
    rules: LeakageRules, asked: _Questions, tested: _Questions, leaked: set[int]
) -> Iterator[Finding]:
    train, held_out = asked.corpus, tested.corpus
    if rules.near_duplicate is not None:
        if rules.within:
            yield from _near_within(asked, train, rules)
            yield from _near_within(tested, held_out, rules)
        pairs = similar_across(held_out, train, rules.shingle_words, rules.near_duplicate)
        for number, found in _by_left(pairs, leaked):
            leaked.add(number)
            read = (
                f"similarity {found[0].similarity:.2f} to {_listed(asked.rows[pair.right] for pair in found)}"
            )
            yield _at(tested.rows[number], "leak/near-duplicate", read)
    if rules.containment is not None:
        pairs = contained_across(held_out, train, rules.ngram_words, rules.containment)
        for number, found in _by_left(pairs, leaked):
            places = _listed(asked.rows[pair.right] for pair in found)
            read = f"{found[0].similarity:.0%} of its {rules.ngram_words}-word sequences stand in {places}"
            yield _at(tested.rows[number], "leak/containment", read)


def _near_within(questions: _Questions, corpus: Corpus, rules: LeakageRules) -> Iterator[Finding]:
    assert rules.near_duplicate is not None
    found = similar_within(corpus, rules.shingle_words, rules.near_duplicate, questions.repeated())
    for pair in found.pairs:
        read = f"similarity {pair.similarity:.2f} to line {questions.rows[pair.left].line}"
        yield _at(questions.rows[pair.right], "data/near-duplicate", read)
    if not found.complete:
        read = "too many rows share their rarest words: only the nearest neighbours in the file were compared"
        yield finding("data/alike", read, file=questions.rows.path)


def _by_left(pairs: Iterable[Similar], leaked: set[int]) -> Iterator[tuple[int, list[Similar]]]:
    """Group pairs by their held-out row, the most similar first; rows that are known to leak are left out."""
    groups: dict[int, list[Similar]] = defaultdict(list)
    for pair in pairs:
        if pair.left not in leaked:
            groups[pair.left].append(pair)
    for number in sorted(groups):
        yield number, sorted(groups[number], key=lambda pair: (-pair.similarity, pair.right))


def _answer(row: Row) -> str:
    """Return the answer so that JSON values are equal whatever their spacing and key order."""
    text = row.output.strip()
    if text[:1] in ("{", "["):
        try:
            return json.dumps(json.loads(text), sort_keys=True)
        except (ValueError, RecursionError):
            pass
    return text


def _listed(rows: Iterable[Row]) -> str:
    places = [row.place for row in rows]
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more


def _at(row: Row, rule: str, read: str) -> Finding:
    return finding(rule, read, file=row.file, line=row.line, digest=row.digest)
