from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune.store import Look, Store, lines

ROWS = frozenset({"row1", "row2", "row3"})


def look(adapter: str = "a", answers: str = "o", rules: str = "r", rows: frozenset[str] = ROWS) -> Look:
    return Look(adapter, answers, rules, rows)


def test_the_first_look_is_the_first_and_asking_writes_nothing(store: Store) -> None:
    assert store.looks.earlier(look()) == 1
    assert store.looks.rules_seen(ROWS) == {}
    assert not store.root.exists()


@pytest.mark.parametrize(
    "second",
    [
        look(adapter="b"),
        look(answers="p"),
        look(rules="s"),
        look(rows=ROWS | {"row4"}),
        look(rows=frozenset({"row1"})),
    ],
    ids=["adapter", "answers", "rules", "more rows", "fewer rows"],
)
def test_whatever_is_new_makes_a_new_look(store: Store, second: Look) -> None:
    assert store.looks.register(look()) == 1
    assert store.looks.earlier(second) == 2
    assert store.looks.register(second) == 2


def test_an_identical_look_keeps_its_number(store: Store) -> None:
    numbers = [store.looks.register(look(adapter=name)) for name in "abcabcba"]
    assert numbers == [1, 2, 3, 1, 2, 3, 2, 1]
    assert Store(store.root).looks.earlier(look(adapter="b")) == 2


def test_looks_at_other_rows_do_not_count(store: Store) -> None:
    store.looks.register(look(rows=frozenset({"x"})))
    store.looks.register(look(rows=frozenset({"y"})))
    assert store.looks.register(look(rows=frozenset({"x", "row1"}))) == 2
    assert store.looks.register(look(rows=frozenset({"y", "row1"}))) == 3


def test_rows_that_were_retouched_or_answered_otherwise_wear_on(store: Store) -> None:
    asked = frozenset({"question1", "question2"})
    first = Look("a", "o", "r", ROWS, asked=asked)
    retouched = Look("b", "o", "r", frozenset({"row1 with a space"}), asked=frozenset({"question2"}))
    assert store.looks.register(first, {"json": "t"}) == 1
    assert store.looks.register(retouched) == 2
    assert store.looks.changed_after_look({"json": "u"}, retouched.rows, retouched.asked) == ("json",)
    assert store.looks.earlier(Look("c", "o", "r", frozenset({"other"}), asked=frozenset({"other"}))) == 1
    # What a book without questions holds is the same look, and counts by its rows.
    assert first.identity == Look("a", "o", "r", ROWS).identity
    assert store.looks.earlier(Look("c", "o", "r", ROWS)) == 2


def test_rows_are_known_by_content_and_not_by_order(store: Store) -> None:
    store.looks.register(look(rows=frozenset(["1", "2"])))
    assert store.looks.register(look(rows=frozenset(["2", "1"]))) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Look,
            st.sampled_from("ab"),
            st.sampled_from("op"),
            st.sampled_from("rs"),
            st.frozensets(st.sampled_from("12345"), min_size=1, max_size=3),
        ),
        max_size=12,
    )
)
def test_it_counts_as_the_rule_says(tmp_path_factory: pytest.TempPathFactory, looks: list[Look]) -> None:
    book = Store(tmp_path_factory.mktemp("store")).looks
    number: dict[Look, int] = {}
    for one in looks:
        expected = number.get(one, 1 + sum(not one.rows.isdisjoint(other.rows) for other in number))
        number.setdefault(one, expected)
        assert book.earlier(one) == expected
        assert book.register(one) == expected


def test_the_rows_of_many_looks_are_written_once(store: Store) -> None:
    rows = frozenset(f"{n:064x}" for n in range(500))
    for name in "abcdefghij":
        store.looks.register(look(adapter=name, rows=rows))
    (file,) = (store.root / "looks").iterdir()
    assert file.stat().st_size < 500 * 70 + 10 * 1000


def test_the_book_tells_who_judged_which_rows(store: Store) -> None:
    assert store.looks.judged() == ()
    store.looks.register(look(), experiment="priority")
    store.looks.register(look(adapter="b", rows=frozenset({"row1"})))
    first, second = store.looks.judged()
    assert (first.experiment, first.k, first.rows) == ("priority", 1, ROWS)
    assert (second.experiment, second.k, second.rows) == ("", 2, frozenset({"row1"}))
    assert first.at_ns < second.at_ns


def test_a_look_of_an_older_book_judged_for_no_known_experiment(store: Store) -> None:
    from pytest_finetune.store.lines import line_of, record_of

    store.looks.register(look(), experiment="priority")
    rows, line = the_file(store).read_bytes().splitlines()
    record = record_of(line)
    assert record is not None
    del record["experiment"]
    the_file(store).write_bytes(rows + b"\n" + line_of(record) + b"\n")
    assert [(one.experiment, one.rows) for one in store.looks.judged()] == [("", ROWS)]


def test_a_look_whose_rows_were_lost_judged_none_that_can_be_named(store: Store) -> None:
    store.looks.register(look())
    the_file(store).write_bytes(the_file(store).read_bytes().splitlines(keepends=True)[1])
    assert store.looks.judged() == ()


def test_a_rule_whose_text_changed_after_a_look_is_told(store: Store) -> None:
    store.looks.register(look(rules="1"), {"json": "t1", "priority": "p1"})
    assert store.looks.changed_after_look({"json": "t1", "priority": "p1"}, ROWS) == ()
    now = {"json": "t2", "priority": "p1", "tone": "n1"}
    assert store.looks.changed_after_look(now, frozenset({"row1"})) == ("json",)
    store.looks.register(look(rules="2"), now)
    assert store.looks.changed_after_look(now, ROWS) == ("json",)
    assert store.looks.changed_after_look({"json": "t1"}, ROWS) == ()
    assert store.looks.changed_after_look(now, frozenset({"fresh"})) == ()
    assert store.looks.rules_seen(ROWS) == {"json": ("t1", "t2"), "priority": ("p1",), "tone": ("n1",)}


def the_file(store: Store) -> Path:
    (file,) = (store.root / "looks").iterdir()
    return file


@pytest.mark.parametrize("junk", [b"{", b"null", b"[]", b"\xff\xfe", b'{"identity": "x"}', b'{"check": 1}'])
def test_a_damaged_line_is_passed_over_with_a_warning(store: Store, junk: bytes) -> None:
    store.looks.register(look())
    file = the_file(store)
    file.write_bytes(junk + b"\n" + file.read_bytes())
    again = Store(store.root)
    assert again.looks.register(look(adapter="b")) == 2
    assert again.warnings == [f"store: 1 damaged line in {file} passed over; looks may be missing"]


def test_any_changed_byte_of_a_line_makes_it_damaged(store: Store) -> None:
    from pytest_finetune.store.lines import record_of

    store.looks.register(look(), {"json": "t"})
    for line in the_file(store).read_bytes().splitlines():
        assert record_of(line) is not None
        for bit in range(8 * len(line)):
            flipped = bytearray(line)
            flipped[bit // 8] ^= 1 << bit % 8
            assert record_of(bytes(flipped)) is None


def test_rows_that_were_lost_count_as_shared(store: Store) -> None:
    """Wear is never forgotten because a line was damaged."""
    store.looks.register(look())
    lines = the_file(store).read_bytes().splitlines(keepends=True)
    assert b'"rows":' in lines[0]
    the_file(store).write_bytes(lines[1])
    assert store.looks.earlier(look(rows=frozenset({"anything"}))) == 2


def test_half_a_line_left_by_a_crash_spoils_only_itself(store: Store) -> None:
    store.looks.register(look())
    the_file(store).write_bytes(the_file(store).read_bytes()[:-20])
    assert store.looks.register(look(adapter="b")) == 1
    assert store.looks.register(look(adapter="c")) == 2
    assert len(store.warnings) == 1


def test_looks_of_other_machines_count(store: Store) -> None:
    store.looks.register(look())
    the_file(store).rename(store.root / "looks" / "another-machine.jsonl")
    assert store.looks.register(look(adapter="b")) == 2
    assert len(list((store.root / "looks").iterdir())) == 2


REGISTER = """
import sys
from pathlib import Path
from pytest_finetune.store import Look, Store, lines
book = Store(Path(sys.argv[1])).looks
for n in range(10):
    print(book.register(Look(f"adapter-{sys.argv[2]}-{n}", "o", "r", frozenset({"row"}))), flush=True)
"""


def test_many_processes_never_get_the_same_number(store: Store) -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTER, str(store.root), str(name)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in range(4)
    ]
    numbers = [int(line) for process in processes for line in process.communicate()[0].splitlines()]
    assert sorted(numbers) == list(range(1, 41))


def test_a_book_that_cannot_be_read_says_so(store: Store) -> None:
    store.looks.register(look())
    file = the_file(store)
    file.rename(file.with_suffix(".aside"))
    file.mkdir()
    assert store.looks.earlier(look(adapter="b")) == 1
    assert f"looks in {file} cannot be read (Is a directory)" in store.warnings[0]


def test_every_line_is_json(store: Store) -> None:
    store.looks.register(look(), {"json": "t"})
    first, second = (json.loads(line) for line in the_file(store).read_bytes().splitlines())
    assert first["rows"] == sorted(ROWS)
    assert (second["adapter"], second["rules"], second["k"]) == ("a", {"json": "t"}, 1)


def test_a_book_is_read_on_from_where_it_was_read_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is read once, however many looks are asked for; what another process appends is read as well."""
    read: list[bytes] = []
    real = lines.record_of

    def record_of(line: bytes) -> lines.Record | None:
        read.append(line)
        return real(line)

    monkeypatch.setattr(lines, "record_of", record_of)
    other = Store(store.root)
    for number in range(5):
        store.looks.register(look(adapter=f"a{number}"))
        other.looks.register(look(adapter=f"b{number}"))
        assert store.looks.earlier(look(adapter="new")) == 2 * number + 3
    (book,) = (store.root / "looks").iterdir()
    whole = book.read_bytes()
    assert set(read) == set(whole.splitlines())
    assert max(Counter(read).values()) == 2  # by two processes, once each
    assert len(store.looks.judged([*ROWS][:1])) == 10
    assert store.looks.judged(["another row"]) == ()
    book.write_bytes(whole.replace(b'"k":1,', b'"k":7,', 1))
    store.looks.earlier(look())
    assert any("1 damaged line" in warning for warning in store.warnings)
