"""Rules whose verdicts come from a judge that wavers: stored, repeated, and never counted where it contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .conftest import RULES, Project, expected, row_id

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


def test_another_threshold_asks_the_judge_nothing_and_another_question_does(judged: Project) -> None:
    judged.run("--finetune")
    questions(judged)
    judged.write({"test_rules.py": RULES + WAVERING.replace("min_rate=0.1", "min_rate=0.2")})
    judged.run("--finetune")
    assert questions(judged) == 0
    judged.write({"test_rules.py": RULES + WAVERING.replace("% 7", "% 9")})
    judged.run("--finetune")
    assert questions(judged) > 2 * 80


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


PRIMARY = RULES.replace("primary=True", "primary=True, judge=True")


def label(project: Project, rule: str, passes: Callable[[dict[str, str]], bool]) -> None:
    """Fill in the file that the run wrote, as people would."""
    template = project.path / "finetune-record" / "judge_labels" / f"{rule}.jsonl"
    lines = [json.loads(line) for line in template.read_text().splitlines()]
    filled = [{**line, "pass": passes(line)} for line in lines]
    project.write({"eval/judge_labels.jsonl": "".join(json.dumps(line) + "\n" for line in filled)})


def test_a_judge_decides_nothing_before_people_have_checked_it_and_then_it_may(project: Project) -> None:
    project.write({"test_rules.py": PRIMARY})
    assert project.run("--finetune").ret == 1
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert "rule 'label' is a judge: nobody has checked it" in decision["reasons"][0]
    label(project, "label", lambda line: line["answer"] == expected(int(line["id"][1:])))
    assert project.run("--finetune").ret == 0
    record = project.experiment()
    assert record["decision"]["keep"]
    assert record["decision"]["looks"] == 1
    told = record["rules"]["label"]["verdicts"]["agreement"]
    assert [told[arm]["labels"] for arm in ("baseline", "tuned", "majority")] == [30, 30, 30]
    assert told["tuned"]["agreement"] == 1.0
    assert any(
        "label is a judge: it agrees with people on 100.0%" in why for why in record["decision"]["reasons"]
    )
    page = (project.path / "finetune-record" / "report.html").read_text(encoding="utf-8")
    assert "Judges beside people" in page


def test_labels_of_other_answers_are_passed_over_and_a_broken_label_is_an_error(project: Project) -> None:
    project.write({"test_rules.py": PRIMARY})
    old = {"id": row_id(1), "arm": "tuned", "answer": "an answer of another adapter", "pass": True}
    project.write({"eval/judge_labels.jsonl": json.dumps(old) + "\n"})
    project.run("--finetune")
    assert project.experiment()["rules"]["label"]["verdicts"]["labels"] == {
        "baseline": {},
        "tuned": {},
        "majority": {},
    }
    project.write({"eval/judge_labels.jsonl": '{"id": "e001", "arm": "tuned", "pass": "yes"}\n'})
    project.run("--finetune").stdout.fnmatch_lines(
        ["*judge_labels.jsonl:1 is no label: write a row such as*"]
    )


# It prefers the answer that names the row's label, takes whichever it sees first on every tenth row, and knows no better
# where neither or both name it.
PREFERRING = """
@pytest.mark.eval_rule(judge=True, pairwise=True, min_gain=0.1)
def test_preferred(response, example, score):
    with open("asked.log", "a") as log:
        log.write(example.id + "\\n")
    if int(example.id[1:]) % 10 == 1:
        return score(1)
    first, second = (example.expected == text for text in (response.first, response.second))
    score(0.5 if first == second else float(first))
"""


def test_a_pairwise_judge_counts_who_wins_in_both_orders(project: Project) -> None:
    project.write({"test_rules.py": RULES + PREFERRING})
    assert project.run("--finetune").ret == 0
    first = project.experiment()
    assert questions(project) == 2 * 80
    rule = first["rules"]["preferred"]
    contradicted = [row_id(i) for i in range(1, 80, 10)]
    assert rule["verdicts"]["contradicted"] == contradicted
    (pair,) = [one for one in first["comparisons"] if one["rule"] == "preferred"]
    right = {
        arm: {row_id(i) for i in range(80) if project.answers[arm][row_id(i)] == expected(i)}
        for arm in ("baseline", "tuned")
    }
    won = right["tuned"] - right["baseline"] - set(contradicted)
    lost = right["baseline"] - right["tuned"] - set(contradicted)
    assert pair["against"] == "baseline"
    assert (set(pair["fixed"]), set(pair["broken"])) == (won, lost)
    assert pair["gain"] == pytest.approx((len(won) - len(lost)) / 80)
    assert not (project.path / "finetune-record" / "judge_labels").exists()
    assert project.run("--finetune").ret == 0
    again = project.experiment()
    assert questions(project) == 0
    assert again["rules"]["preferred"]["scores"] == rule["scores"]
    assert again["decision"]["looks"] == 1
