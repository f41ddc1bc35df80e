"""A whole session, from the experiment file to the record, with a table in place of the model."""

from __future__ import annotations

import errno
import json
import os
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project


def test_a_better_adapter_is_kept(project: Project) -> None:
    result = project.run("--finetune")
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    experiment = project.experiment()
    assert experiment["decision"]["verdict"] == "keep"
    assert experiment["arms"]["tuned"]["rules"]["label"]["passed"] == 72
    assert experiment["arms"]["baseline"]["rules"]["label"]["passed"] == 0


def test_the_record_lies_whole_beside_its_views(project: Project) -> None:
    project.run("--finetune")
    folder = project.path / "finetune-record"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == [
        "decision.md",
        "outputs/baseline.jsonl",
        "outputs/majority.jsonl",
        "outputs/tuned.jsonl",
        "record.json",
        "report.html",
    ]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "KEEP" in page
    assert page.index("KEEP") < page.index("e000")
    answers = [json.loads(line) for line in (folder / "outputs" / "tuned.jsonl").read_text().splitlines()]
    assert len(answers) == 80
    assert set(answers[0]) >= {"id", "line", "prompt", "response", "tokens", "seconds"}


def test_the_terminal_ends_with_verdict_reason_change_and_place(project: Project) -> None:
    lines = project.run("--finetune").outlines
    start = next(number for number, line in enumerate(lines) if "= finetune =" in line)
    section = lines[start:-1]
    assert len(section) <= 25
    assert section[-1] == "record: finetune-record/report.html"
    assert any(
        line.startswith("next: ") and "promote with --finetune-promote" in line for line in section[-4:]
    )
    assert any(line.startswith("KEEP") for line in section)


def test_without_the_flag_the_cheap_stages_run_and_the_rest_says_why_not(project: Project) -> None:
    result = project.run("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["*needs a model: run pytest --finetune*"])
    assert project.calls() == []
    assert not (project.path / "finetune-record").exists()
    assert not (project.path / ".finetune").exists()


def test_a_second_run_reuses_adapter_and_answers_and_decides_alike(project: Project) -> None:
    project.run("--finetune")
    first = project.experiment()
    assert project.calls() == ["train", "answer tuned", "answer baseline"]
    project.run("--finetune")
    second = project.experiment()
    assert project.calls() == []
    parts = {"data", "training", "answers of tuned", "answers of baseline", "rules", "decision", "record"}
    assert parts <= first["timings"].keys()
    assert parts <= second["timings"].keys()
    assert all(seconds >= 0 for seconds in second["timings"].values())
    assert second["training"]["reused"]
    assert second["decision"] == first["decision"]
    assert second["decision"]["looks"] == 1


def test_a_second_run_imports_no_heavy_package(project: Project) -> None:
    project.run("--finetune")
    project.write(
        {
            "conftest.py": (project.path / "conftest.py").read_text()
            + "\ndef pytest_unconfigure():\n    import sys\n"
            + "    heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'scipy.stats'} & set(sys.modules)\n"
            + "    print('HEAVY', sorted(heavy))\n"
        }
    )
    # The trainer's file is part of the adapter's key, so this run trains again; the next one reuses.
    project.run("--finetune", subprocess=True)
    result = project.run("--finetune", "-s", subprocess=True)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*HEAVY ?]*"])


def test_editing_a_rule_neither_trains_nor_asks_again_and_is_marked(project: Project) -> None:
    project.run("--finetune")
    project.calls()
    rules = (project.path / "test_rules.py").read_text()
    project.write(
        {"test_rules.py": rules.replace("json.loads(response.text)", "assert json.loads(response.text)")}
    )
    project.run("--finetune")
    assert project.calls() == []
    experiment = project.experiment()
    assert experiment["rules"]["strict_json"]["changed_after_look"]
    assert not experiment["rules"]["label"]["changed_after_look"]
    assert experiment["decision"]["looks"] == 2
    project.write({"test_rules.py": rules})
    project.run("--finetune")
    assert project.calls() == []
    assert project.experiment()["decision"]["looks"] == 1


def test_an_edited_rule_judges_the_stored_answers_without_torch_and_every_view_says_so(
    project: Project,
) -> None:
    project.write(
        {
            "conftest.py": (project.path / "conftest.py").read_text()
            + "\ndef pytest_unconfigure():\n    import sys\n    print('TORCH', 'torch' in sys.modules)\n"
        }
    )
    assert project.run("--finetune", subprocess=True).ret == 0
    first = project.experiment()
    assert not any(rule["changed_after_look"] for rule in first["rules"].values())
    assert project.calls() == ["train", "answer tuned", "answer baseline"]
    rules = (project.path / "test_rules.py").read_text()
    edited = rules.replace("json.loads(response.text)", "assert json.loads(response.text)")
    project.write({"test_rules.py": edited})
    result = project.run("--finetune", "-s", subprocess=True)
    assert result.ret == 0
    assert project.calls() == []
    result.stdout.fnmatch_lines(["*TORCH False*"])
    experiment = project.experiment()
    assert [name for name, rule in experiment["rules"].items() if rule["changed_after_look"]] == [
        "strict_json"
    ]
    assert experiment["arms"]["tuned"]["outputs_key"] == first["arms"]["tuned"]["outputs_key"]
    assert experiment["arms"]["tuned"]["reused"]
    said = "rule strict_json was changed after a look at these rows"
    assert said in experiment["decision"]["risks"]
    folder = project.path / "finetune-record"
    result.stdout.re_match_lines(
        [r"  strict_json \(changed\) +0\.0%", r"  \* primary rule, .*; changed: after a look"]
    )
    assert said in (folder / "decision.md").read_text(encoding="utf-8").replace("\\_", "_")
    assert said in (folder / "report.html").read_text(encoding="utf-8")


def test_a_comment_in_a_rule_is_no_new_look(project: Project) -> None:
    project.run("--finetune")
    rules = (project.path / "test_rules.py").read_text()
    project.write({"test_rules.py": rules.replace("    json.loads", "    # strict\n    json.loads")})
    project.run("--finetune")
    assert project.experiment()["decision"]["looks"] == 1


def test_another_learning_rate_trains_anew_and_the_record_says_why(project: Project) -> None:
    project.run("--finetune")
    project.calls()
    project.run("--finetune", "--finetune-set", "training.learning_rate=1e-3")
    assert project.calls()[0] == "train"
    assert project.experiment()["key_changed"] == {"training.learning_rate": [0.0002, 0.001]}
    project.run("--finetune")
    assert project.calls() == []


def test_an_adapter_that_answers_like_its_base_is_never_kept(project: Project) -> None:
    project.says("baseline", 72)
    project.says("tuned", 72)
    result = project.run("--finetune")
    assert result.ret == 1
    assert project.experiment()["decision"]["verdict"] != "keep"


def test_an_adapter_of_zeros_is_never_kept(project: Project) -> None:
    project.answers["delta"] = 0.0
    project.save()
    result = project.run("--finetune")
    assert result.ret == 1
    decision = project.experiment()["decision"]
    assert decision["verdict"] != "keep"
    assert any("zero" in reason for reason in decision["reasons"])


def test_a_prompt_that_does_as_well_forbids_a_keep(pytester: pytest.Pytester) -> None:
    from .conftest import make_project

    project = make_project(pytester, few_shot=4)
    project.says("prompted", 72)
    result = project.run("--finetune")
    assert result.ret == 1
    assert sorted(project.calls()) == ["answer baseline", "answer prompted", "answer tuned", "train"]
    experiment = project.experiment()
    assert experiment["decision"]["verdict"] == "discard"
    assert {comparison["against"] for comparison in experiment["comparisons"]} == {
        "baseline",
        "majority",
        "prompted",
    }


def test_few_held_out_rows_are_not_enough_and_the_number_needed_is_named(pytester: pytest.Pytester) -> None:
    from .conftest import make_project

    project = make_project(pytester, rows=3)
    project.says("tuned", 3)
    result = project.run("--finetune")
    assert result.ret == 1
    decision = project.experiment()["decision"]
    assert decision["verdict"] == "iterate"
    assert decision["examples_needed"] > 3


def test_without_a_decision_test_the_record_still_decides(project: Project) -> None:
    (project.path / "test_decision.py").unlink()
    result = project.run("--finetune")
    result.assert_outcomes(passed=3)
    assert project.experiment()["decision"]["verdict"] == "keep"


def test_a_test_can_compare_arms_itself(project: Project) -> None:
    project.write(
        {
            "test_compare.py": "def test_gain(tuned, baseline):\n"
            "    assert tuned['label'].beats(baseline['label'], by=0.5)\n"
            "    assert len(tuned.responses) == 80\n"
            "def test_never(tuned, baseline):\n"
            "    assert baseline['label'].beats(tuned['label'])\n"
        }
    )
    result = project.run("--finetune")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*baseline does not beat tuned on label*"])


def test_a_retraining_replaces_the_adapter(project: Project) -> None:
    project.run("--finetune")
    project.calls()
    project.answers["delta"] = 2.0
    project.save()
    project.run("--finetune", "--finetune-retrain")
    assert project.calls()[0] == "train"
    assert not project.experiment()["training"]["reused"]
    project.run("--finetune")
    assert project.calls() == []


def test_a_damaged_adapter_is_set_aside_and_trained_again(project: Project) -> None:
    project.run("--finetune")
    project.calls()
    (weights,) = project.path.glob(".finetune/adapters/*/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    result = project.run("--finetune")
    assert "train" in project.calls()
    assert result.ret == 0
    assert any("set aside" in note for note in project.record()["notes"])


def test_nothing_is_printed_or_written_when_no_test_of_ours_runs(project: Project) -> None:
    project.write({"test_other.py": "def test_plain(): pass\n"})
    for args in (
        ["--finetune", "--collect-only"],
        ["--finetune", "-k", "nothing_like_this"],
        ["--finetune", "test_other.py"],
    ):
        result = project.run(*args)
        assert "finetune =" not in result.stdout.str(), args
        assert not (project.path / "finetune-record").exists(), args


def test_the_user_may_name_the_page_and_a_copy_lies_beside_the_record(project: Project) -> None:
    project.run("--finetune", "--html=mine/page.html")
    mine = (project.path / "mine" / "page.html").read_text(encoding="utf-8")
    copy = (project.path / "finetune-record" / "report.html").read_text(encoding="utf-8")
    assert copy == mine, "both are the page that pytest-html wrote"
    assert "KEEP" in mine
    assert "<link href=" not in copy, "the copy stands alone"


def test_an_earlier_page_survives_a_run_without_a_test_of_ours(project: Project) -> None:
    project.run("--finetune")
    page = project.path / "finetune-record" / "report.html"
    before = page.read_bytes()
    project.write({"test_other.py": "def test_plain(): pass\n"})
    result = project.run("--finetune", "test_other.py")
    assert page.read_bytes() == before
    assert "Generated html report" not in result.stdout.str()


UNWRITABLE = r"the record cannot be written to finetune-record \({}\): .*--finetune-record=DIR"


def no_traceback(result: pytest.RunResult) -> str:
    text = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    return text


def test_a_record_folder_that_cannot_be_written_costs_the_record_and_not_the_verdict(
    project: Project,
) -> None:
    project.write({"finetune-record": "a file stands where the folder would be"})
    result = project.run("--finetune")
    assert result.ret == 1
    text = no_traceback(result)
    assert re.search(r"^KEEP", text, re.M)
    assert re.search(UNWRITABLE.format(".+"), text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_record_folder_is_named_with_its_flag(project: Project) -> None:
    folder = project.path / "finetune-record"
    folder.mkdir(mode=0o555)
    result = project.run("--finetune", "--finetune-promote")
    text = no_traceback(result)
    assert result.ret == 1
    assert re.search(UNWRITABLE.format("Permission denied"), text)
    assert not (project.path / "artifacts").exists()


@pytest.mark.parametrize("full", ["write_record", "copyfile"])
def test_a_full_disk_is_named_with_its_flag(
    project: Project, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = "record.write._replace" if full == "write_record" else "suite.closing.page.shutil.copyfile"
    monkeypatch.setattr(f"pytest_finetune.{where}", no_space)
    result = project.run("--finetune", "--finetune-promote")
    text = no_traceback(result)
    assert result.ret == 1
    assert re.search(r"^KEEP", text, re.M)
    assert re.search(UNWRITABLE.format("No space left on device"), text)
    assert re.search(r"make room there \([\d.]+ .iB are free, the record takes [\d.]+ .iB\), or", text)
    assert re.search("^not promoted: the record cannot be written", text, re.M)
    kept = project.path / "finetune-record" / "record.json"
    assert kept.exists() == (full == "copyfile")
    assert not list(kept.parent.glob(".*.tmp"))


def test_a_disk_too_full_for_the_page_is_no_trouble_of_pytest_html(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(
        {
            "conftest.py": (project.path / "conftest.py").read_text()
            + "\nimport os, errno\n@pytest.hookimpl(optionalhook=True, trylast=True)\n"
            + "def pytest_html_results_summary():\n    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        }
    )
    result = project.run("--finetune")
    assert result.ret == 1
    assert re.search(UNWRITABLE.format("No space left on device"), no_traceback(result))
    assert (project.path / "finetune-record" / "record.json").is_file()


def test_a_page_of_the_users_own_that_cannot_be_written_is_told_with_its_flag(project: Project) -> None:
    full = (
        "\nimport os, errno\n@pytest.hookimpl(optionalhook=True, trylast=True)\n"
        "def pytest_html_results_summary():\n    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
    )
    project.write({"conftest.py": (project.path / "conftest.py").read_text() + full, "file": ""})
    result = project.run("--finetune", "--html=own.html")
    text = no_traceback(result)
    assert result.ret == 1
    assert re.search(r"^KEEP", text, re.M)
    assert "the page cannot be written to own.html (No space left on device): make room there" in text
    assert (project.path / "finetune-record" / "record.json").is_file()
    result = project.run("--finetune", "--html=file/own.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--html=file/own.html: the folder" in no_traceback(result)


def test_without_pytest_html_the_record_says_so(project: Project) -> None:
    result = project.run("--finetune", "-p", "no:html")
    assert result.ret == 0
    assert not (project.path / "finetune-record" / "report.html").exists()
    assert any("no report.html" in note for note in project.record()["notes"])


def test_several_experiments_share_a_session(project: Project) -> None:
    text = (project.path / "finetune.yaml").read_text()
    project.write(
        {
            "other.yaml": text.replace("r: 4", "r: 8").replace("task: priority", "task: other"),
            "pytest.ini": "[pytest]\nfinetune_experiments = finetune.yaml other.yaml\n",
        }
    )
    result = project.run("--finetune", "-v")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(
        ["*test_contract?finetune?*", "*test_contract?other?*", "*test_keep?finetune?*", "*test_keep?other?*"]
    )
    assert [experiment["name"] for experiment in project.record()["experiments"]] == ["finetune", "other"]
    assert project.calls().count("train") == 2
    assert (project.path / "finetune-record" / "outputs" / "other" / "tuned.jsonl").exists()


def test_a_test_may_be_pinned_to_an_experiment_with_overrides(project: Project) -> None:
    project.write(
        {
            "test_pinned.py": "import pytest\n"
            "@pytest.mark.finetune('finetune.yaml', training={'learning_rate': 0.5})\n"
            "def test_rate(experiment):\n    assert experiment.training.learning_rate == 0.5\n"
        }
    )
    result = project.run("test_pinned.py")
    result.assert_outcomes(passed=1)


def test_the_base_model_can_be_asked_directly(project: Project) -> None:
    project.write(
        {"test_base.py": "def test_asked(base_model):\n    assert base_model.generate is not None\n"}
    )
    project.run("--finetune", "test_base.py").assert_outcomes(passed=1)


def test_a_plugin_receives_the_finished_record(project: Project) -> None:
    project.write(
        {
            "conftest.py": (project.path / "conftest.py").read_text()
            + "\ndef pytest_finetune_record(record, directory):\n"
            + "    verdict = record['experiments'][0]['decision']['verdict']\n"
            + "    (directory / 'tracker.txt').write_text(verdict)\n"
        }
    )
    project.run("--finetune")
    assert (project.path / "finetune-record" / "tracker.txt").read_text() == "keep"


def test_a_plugins_data_check_closes_the_gate_like_ours(project: Project) -> None:
    project.write(
        {
            "conftest.py": (project.path / "conftest.py").read_text()
            + "\nfrom pytest_finetune.data.findings import Finding\n"
            + "def pytest_finetune_data_checks(experiment, train_rows, eval_rows):\n"
            + "    row = train_rows[2]\n"
            + "    return [Finding('acme/house-rule', 'error', 'a word we avoid', 'style', 'reword it', row.file, row.line)]\n"
        }
    )
    result = project.run("--finetune")
    result.assert_outcomes(failed=1, errors=3)
    result.stdout.fnmatch_lines(["*acme/house-rule*train.jsonl:3*"])
    assert project.calls() == []


def test_a_tokenizer_that_cannot_be_read_costs_only_the_token_counts(project: Project) -> None:
    project.write(
        {
            "base/tokenizer.json": "version https://git-lfs.github.com/spec/v1",
            "base/tokenizer_config.json": "{}",
        }
    )
    assert project.run("--finetune").ret == 0
    assert project.experiment()["data"]["train"]["tokens"] is None


def test_a_failed_rule_names_its_rows_by_file_and_line(project: Project) -> None:
    project.says("tuned", 20)
    result = project.run("--finetune")
    result.stdout.fnmatch_lines(
        [
            "  eval.jsonl:21: JSONDecodeError: Expecting value*",
            "    asked     'held-out case 20 on *'",
            """    expected  '{"label": "critical"}'""",
            "    answered  'prose'",
            "  eval.jsonl:22: *",
        ]
    )


def test_a_failed_comparison_shows_no_inside_of_ours_and_no_error_that_came_before(project: Project) -> None:
    project.write(
        {
            "test_rules.py": "import pytest\nfrom pytest_finetune import FinetuneError\n"
            "@pytest.mark.eval_rule(primary=True, min_rate=1)\n"
            "def test_same(response, example):\n"
            "    assert response.text == example.expected, [response, example]\n"
            "def test_told(tuned):\n    try:\n        1 / 0\n"
            "    except ZeroDivisionError as error:\n        raise FinetuneError('told once') from error\n"
        }
    )
    text = project.run("--finetune").stdout.str()
    assert """[<answer '{"label": "none"}'>, <row e072 at eval.jsonl:73>]""" in text
    assert "FinetuneError: told once" in text
    for inside in ("Row(file=", "Response(text=", "ZeroDivisionError: ", "above exception"):
        assert inside not in text
