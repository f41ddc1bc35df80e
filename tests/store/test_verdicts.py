from __future__ import annotations

from pathlib import Path

from pytest_finetune.store import Store
from pytest_finetune.store.opening import open_store
from pytest_finetune.store.verdicts import Asked, Verdict

FIRST = Asked.of("an answer", "row", "rule", "a judge", 1)
SECOND = FIRST._replace(number=2)


def test_verdicts_are_read_as_they_were_written_and_the_newest_counts(store: Store) -> None:
    assert store.verdicts.read() == {}
    assert not store.root.exists()
    store.verdicts.write({FIRST: Verdict(0.0, "too long"), SECOND: Verdict(None, "skipped: empty")})
    store.verdicts.write({FIRST: Verdict(0.75)})
    again = Store(store.root).verdicts.read()
    assert again == {FIRST: Verdict(0.75), SECOND: Verdict(None, "skipped: empty")}


def test_another_answer_row_rule_judge_or_pass_is_another_question() -> None:
    asked = {
        Asked.of("a", "row", "rule", "judge", 1),
        Asked.of("b", "row", "rule", "judge", 1),
        Asked.of("a", "r", "rule", "judge", 1),
        Asked.of("a", "row", "r", "judge", 1),
        Asked.of("a", "row", "rule", "j", 1),
        Asked.of("a", "row", "rule", "judge", 2),
    }
    assert len(asked) == 6


def test_a_damaged_line_loses_its_verdicts_only(store: Store) -> None:
    store.verdicts.write({FIRST: Verdict(1.0)})
    store.verdicts.write({SECOND: Verdict(0.0)})
    (file,) = (store.root / "verdicts").iterdir()
    file.write_bytes(file.read_bytes().replace(b"1.0", b"0.0", 1).replace(b"1,1,", b"1,0,", 1))
    again = Store(store.root)
    assert again.verdicts.read() in ({SECOND: Verdict(0.0)}, {FIRST: Verdict(1.0)})
    assert again.warnings == [f"store: 1 damaged line in {file} passed over; verdicts may be missing"]


def test_verdicts_are_shared_behind_a_url(tmp_path: Path) -> None:
    url = (tmp_path / "shared").as_uri()
    one, other = (open_store(url, tmp_path / name) for name in ("one", "other"))
    one.verdicts.write({FIRST: Verdict(1.0)})
    other.verdicts.write({SECOND: Verdict(0.0, "unkind")})
    for store in (one, other):
        assert store.verdicts.read() == {FIRST: Verdict(1.0), SECOND: Verdict(0.0, "unkind")}
