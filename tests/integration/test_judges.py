"""Rules whose verdicts come from a judge that wavers: stored, repeated, and never counted where it contradicts itself."""

from __future__ import annotations

import json

import pytest

from .conftest import RULES, Project, row_id

# It says the opposite to every seventh row when it is asked about the same answer a second time.
WAVERING = """
from collections import Counter
from pathlib import Path

def asked(response, example):
    log = Path(__file__).parent / "asked.log"
    with log.open("a") as file:
        file.write(json.dumps([example.id, response.text]) + "\\n")
    return Counter(log.read_text().splitlines())[json.dumps([example.id, response.text])]

@pytest.mark.eval_rule(judge=True, min_rate=0.1)
def test_kind(response, example):
    times = asked(response, example)
    assert int(example.id[1:]) % 7 or times % 2, f"unkind, said the {times}. time"
"""
WOBBLY = [row_id(i) for i in range(0, 80, 7)]


def questions(project: Project) -> int:
    """Return how often the judge was asked since the last question."""
    log = project.path / "asked.log"
    lines = len(log.read_text().splitlines()) if log.exists() else 0
    log.unlink(missing_ok=True)
    return lines


@pytest.fixture
def judged(project: Project) -> Project:
    """A project with a second rule that asks a judge."""
    project.write({"test_rules.py": RULES + WAVERING})
    return project


def test_a_judge_is_asked_twice_and_a_row_on_which_it_contradicts_itself_is_noisy(judged: Project) -> None:
    assert judged.run("--finetune").ret == 0
    record = judged.experiment()
    rule = record["rules"]["kind"]
    assert rule["judge"] is True
    assert rule["verdicts"]["contradicted"] == WOBBLY
    assert (rule["verdicts"]["judge"], rule["verdicts"]["passes"]) == ("kind", 2)
    assert rule["verdicts"]["stored"] == 0
    assert rule["verdicts"]["asked"] == questions(judged) > 2 * 80
    (pair,) = [one for one in record["comparisons"] if one["rule"] == "kind" and one["against"] == "baseline"]
    assert pair["noisy"] == WOBBLY
    said = "the judge of kind contradicts itself on 12 rows"
    assert any(said in risk for risk in record["decision"]["risks"])


def test_a_second_session_repeats_every_verdict_and_asks_nothing(judged: Project) -> None:
    judged.run("--finetune")
    questions(judged)
    first = judged.experiment()
    assert judged.run("--finetune").ret == 0
    again = judged.experiment()
    assert questions(judged) == 0
    for part in ("scores", "messages", "rows"):
        assert again["rules"]["kind"][part] == first["rules"]["kind"][part]
    assert again["rules"]["kind"]["verdicts"]["asked"] == 0
    assert again["rules"]["kind"]["verdicts"]["sha256"] == first["rules"]["kind"]["verdicts"]["sha256"]
    assert (first["decision"]["looks"], again["decision"]["looks"]) == (1, 1)


def test_asking_the_judge_anew_is_a_look_and_its_newest_verdicts_are_repeated(judged: Project) -> None:
    judged.run("--finetune")
    asked = questions(judged)
    judged.run("--finetune")
    assert questions(judged) == 0
    (judged.path / "asked.log").write_text("")
    # One more answer is known to the log, so that the first verdict on a wobbly row is another one.
    log = [json.dumps([row_id(0), judged.answers["tuned"][row_id(0)]])]
    (judged.path / "asked.log").write_text("\n".join(log) + "\n")
    judged.run("--finetune", "--finetune-rejudge")
    assert questions(judged) == asked + 1
    rolled = judged.experiment()
    assert rolled["decision"]["looks"] == 2
    assert row_id(0) in rolled["rules"]["kind"]["messages"]["tuned"]
    judged.run("--finetune")
    assert questions(judged) == 0
    again = judged.experiment()
    assert again["decision"]["looks"] == 2
    assert again["rules"]["kind"]["scores"] == rolled["rules"]["kind"]["scores"]


def test_verdicts_that_were_lost_are_asked_anew_which_is_a_look(judged: Project) -> None:
    judged.run("--finetune")
    (book,) = (judged.path / ".finetune" / "verdicts").iterdir()
    book.unlink()
    judged.run("--finetune")
    assert judged.experiment()["decision"]["looks"] == 2


def test_a_part_of_the_rules_and_then_all_of_them_are_one_look(judged: Project) -> None:
    judged.run("--finetune", "-k", "label")
    assert judged.run("--finetune").ret == 0
    assert judged.experiment()["decision"]["looks"] == 1


def test_a_judge_that_stops_answering_is_an_error_and_is_asked_only_what_is_missing(judged: Project) -> None:
    down = WAVERING.replace(
        "    times = asked",
        '    if (Path(__file__).parent / "down").exists() and example.id > "e050":\n'
        '        raise OSError("the judge is away")\n    times = asked',
    )
    judged.write({"test_rules.py": RULES + down, "down": ""})
    assert judged.run("--finetune").ret == 1
    record = judged.experiment()
    assert record["rules"]["kind"]["outcome"] == "error"
    assert record["decision"]["undecided"]
    assert questions(judged) == 51
    (judged.path / "down").unlink()
    assert judged.run("--finetune").ret == 0
    assert judged.experiment()["rules"]["kind"]["verdicts"]["stored"] == 51
    assert judged.experiment()["decision"]["looks"] == 1
