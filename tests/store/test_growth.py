"""Looks at rows that were only added for the same adapter: which belong together, and what breaks them apart."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.store import JudgedRow, Look, Store


def look(
    rows: str,
    *,
    adapter: str = "a",
    rules: str = "r",
    setting: str = "s",
    grow: bool = True,
    said: str = "yes",
) -> Look:
    """Return a look at rows named by one letter each; all arms say the same to each."""
    judged = tuple(JudgedRow(row, f"{said} to {row}") for row in rows)
    answers = f"{adapter} {said} {len(rows)}"
    if not grow:
        return Look(adapter, answers, rules, frozenset(rows))
    return Look(adapter, answers, rules, frozenset(rows), in_order=judged, setting=setting)


def grown(store: Store, one: Look) -> tuple[int, tuple[int, ...], str]:
    store.looks.register(one)
    found, ends = store.looks.growth(one)
    return found.k, ends, found.why


def test_rows_that_are_only_added_belong_to_the_first_look(store: Store) -> None:
    assert grown(store, look("abc")) == (1, (), "")
    assert grown(store, look("abcd")) == (1, (3,), "")
    assert grown(store, look("abcdef")) == (1, (3, 4), "")
    assert grown(store, look("abcd")) == (1, (3,), ""), "a look that is repeated stays what it was"
    assert store.looks.earlier(look("abcdef")) == 3, "claims that do not grow pay for every look"
    assert Store(store.root).looks.growth(look("abcdefg"))[1] == (3, 4, 6)


def refused(store: Store, first: Sequence[Look], then: Look) -> str:
    for one in first:
        store.looks.register(one)
    k, ends, why = grown(store, then)
    assert (k, ends) == (2, ())
    assert why.startswith("this is another look at rows that were judged before, not rows added to one: ")
    return why.partition("to one: ")[2]


def test_a_row_that_was_taken_away_changed_or_moved_makes_another_look(store: Store) -> None:
    gone = "rows may only be appended, and of the 4 rows judged before, row 4 is another one now or gone"
    assert refused(store, [look("abc"), look("abcd")], look("abcef")) == gone


def test_rows_put_in_front_make_another_look(store: Store) -> None:
    assert refused(store, [look("abc")], look("zabc")).endswith("row 1 is another one now or gone")


def test_other_answers_to_the_same_rows_make_another_look(store: Store) -> None:
    assert (
        refused(store, [look("abc")], look("abcd", said="no")) == "3 rows judged before got other answers now"
    )


def test_another_adapter_rule_or_setting_makes_another_look(store: Store) -> None:
    other = "the earlier ones were of another adapter, rule, prompt, runtime or decision"
    assert refused(store, [look("abc")], look("abcd", adapter="b")) == other
    assert store.looks.growth(look("abcde", rules="other"))[0].k == 3
    assert store.looks.growth(look("abcde", setting="other"))[0].k == 3


def test_what_is_declared_after_the_first_look_does_not_count_for_its_rows(store: Store) -> None:
    late = "decision.grow was declared after this adapter had been judged on them"
    assert refused(store, [look("abc", grow=False)], look("abc1")) == late
    assert grown(store, look("abc12")) == (2, (4,), ""), "from here rows may be added"


def test_other_adapters_pay_for_the_first_of_such_looks_only_where_they_grow_as_well(store: Store) -> None:
    for rows in ("abc", "abcd", "abcde"):
        store.looks.register(look(rows))
    assert store.looks.growth(look("abcde", adapter="b"))[0].k == 2
    assert store.looks.earlier(look("abcde", adapter="b", grow=False)) == 4
    held_out, asked = frozenset("abcde"), frozenset[str]()
    assert (store.looks.next(held_out, asked, grow=True), store.looks.next(held_out, asked)) == (2, 4)


def test_a_judge_that_is_asked_anew_is_another_look_and_its_first_verdicts_are_the_same_one(
    store: Store,
) -> None:
    one = look("abc")
    store.looks.register(one)
    said, again = (Look(one.adapter, one.answers, one.rules_sha256, one.rows, verdict, one.asked, one.in_order, "s")
                   for verdict in ("said", "said otherwise"))  # fmt: skip
    assert grown(store, said) == (1, (), "")
    k, ends, why = grown(store, again)
    assert (k, ends) == (2, ())
    assert why.endswith("a judge was asked anew")


def test_the_rows_of_earlier_looks_are_known_before_anybody_is_asked(store: Store) -> None:
    for rows in ("abc", "abcd"):
        store.looks.register(look(rows))
    assert store.looks.sizes_before("abcde") == (4, 3)
    assert store.looks.sizes_before("abxde") == ()


def test_a_look_whose_rows_do_not_grow_is_written_down_as_ever(store: Store) -> None:
    store.looks.register(look("abc", grow=False))
    assert "grown" not in next((store.root / "looks").iterdir()).read_text(encoding="utf-8")
