"""Two stored runs side by side; the runs are written as a session writes them, without one."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.answering.answers import Answer, write_answers
from pytest_finetune.fingerprint import digest
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.summary import name_of, summary, write_run
from pytest_finetune.record.write import record_json
from pytest_finetune.store import Store

if TYPE_CHECKING:
    from .conftest import Ran

Json = dict[str, Any]
ROWS = [f"e{number}" for number in range(6)]
RULE: Json = {
    "nodeid": "test_rules.py::test_label",
    "outcome": "passed",
    "primary": True,
    "min_gain": 0.1,
    "confidence": None,
    "suite": None,
    "sha256": "1" * 64,
    "rows": ROWS,
    "scores": {"baseline": [0] * 6, "tuned": [1, 1, 1, 0, 0, 0]},
}
EXPERIMENT: Json = {
    "name": "finetune",
    "task": "priority",
    "key": "aa" * 32,
    "key_fields": {"lora": {"r": 4}, "environment": {"torch": "2.0"}},
    "config": {
        "lora": {"r": 4},
        "decision": {"confidence": 0.95, "min_gain": 0.05},
        "paths": {"eval_file": "eval.jsonl", "train_file": "train.jsonl", "suites": {}},
    },
    "checksums": {"eval": {"path": "eval.jsonl", "sha256": "e" * 64}},
    "charter": {"findings": []},
    "environment": {"python": "3.11", "platform": "Linux", "packages": {"torch": "2.0"}},
    "hardware": None,
    "data": {"findings": [], "train": {"rows": 40, "tokens": {"p50": 5, "p95": 9, "max": 9, "truncated": 0}}},
    "memory": None,
    "training": {
        "seconds": 10.0,
        "steps": 5,
        "final_loss": 0.5,
        "reused": False,
        "log": [],
        "adapter_sha256": "ab" * 32,
    },
    "arms": {
        "tuned": {
            "runtime": "transformers",
            "rules": {"label": {"passed": 3, "total": 6, "rate": 0.5, "interval": [0.2, 0.8]}},
        }
    },
    "rules": {"label": RULE},
    "comparisons": [],
    "runtime_match": [],
    "decision": {
        "verdict": "keep",
        "keep": True,
        "undecided": False,
        "reasons": ["better"],
        "next_change": None,
        "examples_needed": None,
        "looks": 1,
        "alpha": 0.025,
        "rules_sha256": "0" * 64,
    },
    "held_out": [
        {"id": id_, "line": n, "file": "eval.jsonl", "input": "q", "expected": "a", "digest": digest(id_)}
        for n, id_ in enumerate(ROWS, 1)
    ],
}
SAID = {id_: f"answer {id_}" for id_ in ROWS}


class Runs:
    """A store to put runs into."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / ".finetune")

    def add(self, change: Callable[[Json], object] = lambda _: None, said: Mapping[str, str] = SAID) -> str:
        """Store a run with the answers of its tuned arm; return the run's id."""
        experiment = copy.deepcopy(EXPERIMENT)
        change(experiment)
        answers = [Answer(id_, n, "p", text, 3, 0.1, True) for n, (id_, text) in enumerate(said.items(), 1)]
        key = digest([[answer.id, answer.response] for answer in answers])
        experiment["arms"]["tuned"] |= {
            "outputs_key": key,
            "answers_sha256": key,
            "outputs": "outputs/tuned.jsonl",
        }
        if self.store.read("outputs", key) is None:
            self.store.commit("outputs", key, lambda to: write_answers(to / "answers.jsonl", answers))
        record = self.record(experiment)
        one = RecordedExperiment.of(experiment)
        write = partial(write_run, record=record, one=one)
        return self.store.commit("records", name_of(one), write, summary(record, one)).key

    @staticmethod
    def record(*experiments: Json) -> Json:
        """Return the record of a session."""
        return {
            "schema_version": "1",
            "created": "2026-01-01T00:00:00+00:00",
            "command": "pytest --finetune",
            "exit_status": 0,
            "experiments": list(experiments),
            "tests": [],
        }


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(tmp_path)


def test_two_runs_are_compared_in_causes_figures_and_rows(run: Callable[..., Ran], runs: Runs) -> None:
    def other(experiment: Json) -> None:
        experiment |= {"key": "bb" * 32, "key_fields": {"lora": {"r": 8}, "environment": {"torch": "2.1"}}}
        experiment["config"]["lora"]["r"] = 8
        experiment["config"]["decision"]["min_gain"] = 0.2
        experiment["environment"]["packages"]["torch"] = "2.1"
        experiment["data"]["train"]["rows"] = 44
        experiment["training"]["seconds"] = 300.0
        experiment["drift"] = {"outcome": "measured", "answers_changed": 36, "mean_kl": 0.11}
        experiment["decision"] |= {"verdict": "discard", "reasons": ["worse"], "looks": 2}
        experiment["rules"]["label"] = RULE | {"scores": {"tuned": [1, 0, 1, 1, 1, None]}}
        rate = {"passed": 4, "total": 6, "rate": 4 / 6, "interval": [0.3, 0.9]}
        experiment["arms"]["tuned"]["rules"]["label"] = rate

    a, b = runs.add(), runs.add(other, SAID | {"e1": "prose", "e3": "right now"})
    ran = run("compare", a[:9], b[:9])
    assert (ran.code, ran.err) == (0, "")
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[1:5] == [
        f"A {a[:12]} 2026-01-01T00:00:00+00:00 finetune keep abababababab",
        f"B {b[:12]} 2026-01-01T00:00:00+00:00 finetune discard abababababab",
        "A: better",
        "B: worse",
    ]
    assert lines.count("key lora.r 4 8") == 1
    assert "config lora.r 4 8" not in lines  # told once
    assert {
        "key environment.torch 2.0 2.1",
        "config decision.min_gain 0.05 0.2",
        "data train.rows 40 44",
    } <= set(lines)
    assert not any("packages.torch" in line for line in lines)
    assert {"verdict keep discard", "look 1 2", "training time 10 s 5 min 00 s"} <= set(lines)
    assert {"neutral answers changed - 36", "neutral answers, token KL - 0.11"} <= set(lines)
    assert "label tuned 50.0% [20.0, 80.0] 66.7% [30.0, 90.0] +16.7 points" in lines
    assert "held-out rows: 6 in both runs" in lines
    assert "answers of tuned: 2 of 6 changed (e1, e3)" in lines
    assert any(line.startswith("label 5 2 1 +20.0 points [") for line in lines)
    assert {"broken under label: e1", "e1 A: answer e1", "e1 B: prose", "fixed under label: e3, e4"} <= set(
        lines
    )
    assert lines[-1] == "nothing here was decided, and no look was counted"


def test_the_answer_for_programs_holds_every_row(run: Callable[..., Ran], runs: Runs) -> None:
    a = runs.add()
    b = runs.add(
        lambda one: one["rules"]["label"]["scores"].update(tuned=[0] * 6), SAID | {"e0": "\x1b[31mred"}
    )
    tree = run("compare", a, b, "--json").tree
    assert tree["a"]["named"] == a[:12]
    assert tree["answers"]["tuned"]["changed"] == [
        {"a": "e0", "b": "e0", "answers": ["answer e0", "\x1b[31mred"]}
    ]
    (outcome,) = tree["outcomes"]
    assert outcome["broken"] == [["e0", "e0"], ["e1", "e1"], ["e2", "e2"]]
    assert outcome["gain"] == -0.5
    assert outcome["interval"][0] < -0.5 < outcome["interval"][1]


def test_rows_are_matched_by_what_stands_in_them(run: Callable[..., Ran], runs: Runs) -> None:
    def other(experiment: Json) -> None:
        rows = experiment["held_out"]
        rows[1]["id"] = "renamed"
        rows[2]["digest"] = digest("other words")
        rows[5] |= {"id": "new", "digest": digest("new")}
        experiment["rules"]["label"] |= {
            "rows": [row["id"] for row in rows],
            "scores": {"tuned": [1, 0, 1, 1, 0, 0]},
        }

    said = {"e0": "answer e0", "renamed": "answer e1", "e2": "x", "e3": "y", "e4": "answer e4", "new": "z"}
    a, b = runs.add(), runs.add(other, said)
    out = run("compare", a, b).out
    assert (
        "held-out rows: 4 in both runs, 1 only in A (e5), 1 only in B (new), 1 with another text in B (e2)"
        in out
    )
    assert "answers of tuned: 1 of 4 changed (e3)" in out
    assert "broken under label: e1 (in B renamed)\n" in out
    assert "fixed under label: e3\n" in out


def test_a_rule_that_says_something_else_is_named(run: Callable[..., Ran], runs: Runs) -> None:
    def other(experiment: Json) -> None:
        experiment["rules"]["label"] |= {"sha256": "2" * 64, "min_gain": 0.2}
        experiment["rules"]["short"] = RULE | {"primary": False}
        experiment["decision"]["looks"] = 2

    a, b = runs.add(), runs.add(other)
    out = run("compare", a, b).out
    assert "rule label: rule text differs, so its rates are measured with two different rules" in out
    assert "only B has 1 rule: short" in out
    assert ["rules", "label.min_gain", "0.1", "0.2"] in [line.split() for line in out.splitlines()]


def test_answers_that_gc_removed_are_said_to_be_gone_and_the_rest_is_compared(
    run: Callable[..., Ran], runs: Runs
) -> None:
    a = runs.add()
    b = runs.add(
        lambda one: one["rules"]["label"]["scores"].update(tuned=[1, 1, 1, 1, 0, 0]), SAID | {"e3": "yes"}
    )
    shutil.rmtree(runs.store.root / "outputs")
    out = run("compare", a, b).out
    assert (
        "answers of tuned: some differ by their digest; which is not known: the answers of A and B are not in the store "
        "any more (gc removed them) or beside the record" in out
    )
    assert "fixed under label: e3\n" in out


def test_the_same_run_twice_differs_in_nothing(run: Callable[..., Ran], runs: Runs) -> None:
    a = runs.add()
    out = run("compare", a, a).out
    assert "no difference in key, configuration, data, environment or arguments of rules" in out
    assert "answers of tuned: none of 6 changed" in out


def test_a_record_and_its_folder_name_a_run_too(run: Callable[..., Ran], runs: Runs, tmp_path: Path) -> None:
    a = runs.add()
    folder = tmp_path / "finetune-record"
    (folder / "outputs").mkdir(parents=True)
    experiment = copy.deepcopy(EXPERIMENT)
    experiment["arms"]["tuned"] |= {"outputs": "outputs/tuned.jsonl", "answers_sha256": "other"}
    (folder / "record.json").write_text(record_json(Runs.record(experiment)))
    answers = [Answer(id_, 1, "p", "same for all", 3, 0.1, True) for id_ in ROWS]
    write_answers(folder / "outputs" / "tuned.jsonl", answers)
    for path in (folder, folder / "record.json"):
        assert "answers of tuned: 6 of 6 changed" in run("compare", a, path).out
    several = Runs.record(experiment, experiment | {"name": "small"})
    (folder / "record.json").write_text(record_json(several))
    ran = run("compare", a, folder)
    assert ran.code == 2
    assert f"holds 2 experiments (finetune, small): name one, as in {folder}::NAME" in ran.err
    assert run("compare", a, f"{folder}::small").code == 0
    ran = run("compare", a, f"{folder}::large")
    assert "holds no experiment 'large'; it holds finetune, small" in ran.err


def test_outputs_outside_the_records_folder_are_not_read(
    run: Callable[..., Ran], runs: Runs, tmp_path: Path
) -> None:
    a = runs.add()
    write_answers(tmp_path / "secret.jsonl", [Answer("e0", 1, "p", "secret", 3, 0.1, True)])
    experiment = copy.deepcopy(EXPERIMENT)
    experiment["arms"]["tuned"]["outputs"] = "../secret.jsonl"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "record.json").write_text(record_json(Runs.record(experiment)))
    ran = run("compare", a, tmp_path / "there")
    assert ran.code == 0
    assert "the answers of B are not" in ran.out
    assert "secret" not in ran.out


def test_a_word_that_names_no_run_or_several_is_a_mistake(
    run: Callable[..., Ran], runs: Runs, tmp_path: Path
) -> None:
    ran = run("compare", "abc", "def")
    assert (ran.code, ran.out) == (2, "")
    assert "'abc': no run was stored here yet" in ran.err
    a = runs.add()
    b = runs.add(lambda one: one["decision"].update(verdict="discard"))
    ran = run("compare", a, "aaaa")  # the adapter of both
    assert ran.code == 2
    assert "'aaaa' names 2 runs; write more of the id of one:" in ran.err
    for id_, verdict in ((a, "keep"), (b, "discard")):
        assert f"{id_[:12]}  2026-01-01T00:00:00+00:00  finetune  {verdict}  adapter {'a' * 12}" in ran.err
    assert (
        "none of the 2 runs in the store has an id or an adapter key that begins so"
        in run("compare", a, "zz").err
    )
    assert "there is no such file or folder" in run("compare", a, "no/record.json").err
    assert "so it is neither a record nor a bundle" in run("compare", a, tmp_path).err
    (tmp_path / "record.json").write_text("{}")
    assert "record.json is no record: $" in run("compare", a, tmp_path).err
    assert run("compare", a).code == 2


def test_what_rows_and_models_say_reaches_no_terminal(run: Callable[..., Ran], runs: Runs) -> None:
    hostile = "\x1b[2Jgone\u202egnol\x07"

    def other(experiment: Json) -> None:
        experiment["name"] = hostile
        experiment["config"]["prompt"] = {"template": hostile}
        experiment["rules"]["label"]["scores"] = {"tuned": [0, 1, 1, 0, 0, 0]}
        experiment["decision"]["reasons"] = [hostile]

    a, b = runs.add(), runs.add(other, SAID | {"e0": hostile})
    ran = run("compare", a, b)
    assert not set("\x1b\u202e\x07") & set(ran.out)
    assert r"e0  B: \x1b[2Jgone\u202egnol\x07" in ran.out
    assert ran.out.count(r"\x1b[2Jgone") == 4
    assert "\x1b" not in run("compare", hostile, b).err


def test_two_of_fifty_runs_are_compared_without_reading_the_others_and_without_torch(
    runs: Runs, tmp_path: Path
) -> None:
    names = [runs.add(lambda one, n=n: one["decision"].update(looks=n + 1)) for n in range(50)]  # type: ignore[misc]
    code = (
        "import sys; from pytest_finetune.cli import main; opened = [];"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None);"
        "code = main(sys.argv[1:]);"
        "print(len({file for file in opened if file.endswith('run.json')}), *{'torch', 'pytest'} & sys.modules.keys());"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "compare", names[0], names[49]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2"
    assert names[0][:12] in done.stdout
