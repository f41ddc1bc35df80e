"""Drift on neutral prompts in whole sessions: measured without being asked for, stored, asserted, and a risk of a keep."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .conftest import CONFTEST

if TYPE_CHECKING:
    from .conftest import Project

TASK = '{"label": "high"}'

# A runtime that also knows its probabilities: what the table says under `kl`, one number a token.
COMPARING = CONFTEST.replace(
    "class TableRuntime:\n",
    """class TableRuntime:
    def token_kl(self, prompts, answers, adapter):
        called("kl")
        assert adapter.is_dir() and [p.id for p in prompts] == [a.id for a in answers]
        return [tuple(TABLE["kl"].get(p.id, [0.0])) for p in prompts]
""",
).replace("TABLE[arm][p.id]", 'TABLE[arm].get(p.id, "as before")')

ASSERTS = """\
def test_drift(drift):
    assert drift.mean_kl <= 0.5
    assert drift.changed <= 0.9
    assert not drift.forgets
"""


def ask_for(project: Project, conftest: str = COMPARING) -> None:
    """Let the template show the instruction, and the table answer what it does not know as the base does."""
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace('"{input} ->"', '"{instruction}: {input} ->"'))
    project.answers["kl"] = {}
    project.save()
    project.write({"conftest.py": conftest})


def forget(project: Project, count: int, answer: str = TASK) -> None:
    """Let the tuned model answer the first shipped prompts with its task, some of them far from the base."""
    from pytest_finetune.data.neutral import neutral_rows

    ids = [row.id for row in neutral_rows(project.path)][:count]
    project.answers["tuned"] |= dict.fromkeys(ids, answer)
    project.answers["kl"] = {id_: [2.0, 4.0] for id_ in ids}
    project.save()


def add(project: Project, text: str) -> None:
    file = project.path / "finetune.yaml"
    file.write_text(f"{file.read_text()}{text}\n")


def risks(project: Project) -> list[str]:
    found: list[str] = project.experiment()["decision"]["risks"]
    return [risk for risk in found if risk.startswith(("forgetting", "drift"))]


def test_it_is_measured_in_every_run_that_decides(project: Project) -> None:
    ask_for(project)
    result = project.run("--finetune")
    assert result.ret == 0
    assert project.calls() == [
        "train",
        "answer tuned",
        "answer tuned",
        "answer tuned",  # a random adapter
        "answer baseline",
        "answer baseline",
        "kl",
    ]
    drift = project.experiment()["drift"]
    assert (drift["outcome"], drift["prompts"], drift["answers_changed"]) == ("measured", 40, 0)
    assert (drift["mean_kl"], drift["max_kl"], drift["tokens"]) == (0, 0, 40)
    assert (drift["file"], drift["runtime"], drift["told_by"]) == (None, "transformers", "training outputs")
    assert drift["rows"][0]["prompt"] == "Answer the question.: Which planet is the third from the sun? ->"
    assert risks(project) == []
    result.stdout.fnmatch_lines(
        ["  drift     0 of 40 neutral answers changed, KL 0, 0 like the task (base 0)"]
    )


def test_a_second_run_asks_and_imports_nothing(project: Project) -> None:
    ask_for(project)
    forget(project, 3)
    project.run("--finetune")
    project.calls()
    first = project.experiment()["drift"]
    probe = "import sys\ndef pytest_sessionfinish():\n    print('heavy:', {'torch', 'transformers'} & set(sys.modules))\n"
    project.write({"probe.py": probe})
    result = project.run("--finetune", "-p", "probe", "-s", subprocess=True)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*heavy: set()"])
    assert project.calls() == []
    assert project.experiment()["drift"] == first


def test_other_answers_are_other_drift(project: Project) -> None:
    ask_for(project)
    project.run("--finetune")
    project.calls()
    project.run("--finetune", "--finetune-set", "generation.max_new_tokens=9")
    assert project.calls().count("kl") == 1


def test_a_keep_that_forgets_other_instructions_says_so_everywhere(project: Project) -> None:
    ask_for(project)
    forget(project, 38)
    result = project.run("--finetune")
    assert result.ret == 0
    said = (
        "forgetting: 38 of 40 neutral prompts are answered in the task's format (told by the training outputs), "
        "0 by the base, p < 0.0001"
    )
    assert risks(project) == [said]
    assert project.experiment()["decision"]["verdict"] == "keep"
    result.stdout.fnmatch_lines(
        ["  drift     38 of 40 neutral answers changed, KL *, 38 like the task (base 0)"]
    )
    result.stdout.fnmatch_lines(["risk, high: forgetting: 38 of 40 neutral prompts*"])
    note = (project.path / "finetune-record" / "decision.md").read_text()
    assert "drift from the base: 38 of 40 neutral answers changed" in note
    assert "forgetting: 38 of 40 neutral prompts" in note
    page = (project.path / "finetune-record" / "report.html").read_text()
    assert "Drift on neutral prompts" in page


def test_other_answers_that_are_not_the_tasks_are_no_forgetting(project: Project) -> None:
    ask_for(project)
    forget(project, 38, "quite another text")
    project.run("--finetune")
    assert risks(project) == []
    assert project.experiment()["drift"]["answers_changed"] == 38


def test_a_failed_assertion_tells_the_numbers_and_what_to_do(project: Project) -> None:
    ask_for(project)
    forget(project, 38)
    project.write({"test_drift.py": ASSERTS})
    result = project.run("--finetune")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E*the mean token KL from the base is 2.92, not <= 0.5",  # (38 x 2 tokens at 3) / 78
            "E*38 of 40 neutral answers changed (95% interval 83.1% to 99.4%), 38 in the task's format, 0 by the base",
            "E*a random adapter of the same size changes 38 of 40 answers",
            "E*arithmetic-1 (KL 3): 'as before' -> '{\"label\": \"high\"}'",
            "E*to do: replay the base's own answers (training.replay), add rows with other instructions, or train*",
        ]
    )


@pytest.mark.parametrize(
    ("assertion", "said"),
    [
        ("drift.changed < 0.9", "*the share of changed answers is 0.95, not < 0.9"),
        ("not drift.forgets", "*assert not <38 of 40 neutral prompts are answered in the task's format*"),
        ("drift.max_kl <= 1", "*the largest mean token KL of an answer is 3, not <= 1"),
    ],
)
def test_each_of_its_numbers_can_be_asserted(project: Project, assertion: str, said: str) -> None:
    ask_for(project)
    forget(project, 38)
    project.write({"test_drift.py": f"def test_drift(drift):\n    assert {assertion}\n"})
    project.run("--finetune").stdout.fnmatch_lines([said])


def test_an_adapter_that_holds_passes_and_a_lone_test_brings_what_it_needs(project: Project) -> None:
    ask_for(project)
    project.write({"test_drift.py": ASSERTS})
    result = project.run("--finetune", "test_drift.py")
    assert result.ret == 0
    assert "kl" in project.calls()


def test_a_runtime_without_probabilities_has_texts_and_the_reason(project: Project) -> None:
    ask_for(project, COMPARING.replace("def token_kl", "def not_known"))
    forget(project, 2)
    project.write({"test_drift.py": "def test_kl(drift):\n    assert drift.mean_kl <= 0.5\n"})
    result = project.run("--finetune")
    result.assert_outcomes(passed=4, failed=1)
    drift = project.experiment()["drift"]
    assert (drift["answers_changed"], drift["mean_kl"], drift["max_kl"], drift["tokens"]) == (
        2,
        None,
        None,
        None,
    )
    assert drift["kl_reason"] == "the runtime 'transformers' gives texts and no probabilities"
    result.stdout.fnmatch_lines(
        [
            "E*NotMeasured: no token KL: the runtime 'transformers' gives texts and no probabilities; assert drift.changed*"
        ]
    )
    assert not [line for line in result.outlines if "judging/drift.py" in line]
    project.calls()
    project.run("--finetune")
    assert project.calls() == []


def test_prompts_that_cannot_be_answered_fail_nothing_but_who_asks(project: Project) -> None:
    ask_for(project, COMPARING.replace('.get(p.id, "as before")', "[p.id]"))
    result = project.run("--finetune")
    assert result.ret == 0
    assert project.experiment()["drift"]["outcome"] == "error"
    assert risks(project) == [
        "drift from the base on neutral prompts was not measured: KeyError: 'question-1'"
    ]
    project.write({"test_drift.py": ASSERTS})
    result = project.run("--finetune")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*drift was not measured: KeyError: 'question-1'"])


def test_a_template_with_a_fixed_instruction_asks_nothing_and_says_so(project: Project) -> None:
    project.write({"test_drift.py": ASSERTS})
    result = project.run("--finetune")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        ["*drift was not measured: prompt.template shows no {instruction}, so the prompts*"]
    )
    drift = project.experiment()["drift"]
    assert (drift["outcome"], drift["prompts"]) == ("not possible", 0)
    assert risks(project) == []
    assert project.calls() == ["train", "answer tuned", "answer baseline"]


def test_switched_off_it_is_not_measured(project: Project) -> None:
    ask_for(project)
    add(project, "drift: false")
    project.write({"test_drift.py": ASSERTS})
    result = project.run("--finetune")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*finetune.yaml says drift: false, so none is measured: remove that line"])
    assert project.experiment()["drift"] is None
    assert project.experiment()["config"]["drift"] is False
    assert project.calls() == ["train", "answer tuned", "answer baseline"]
    assert not [line for line in result.outlines if line.startswith("  drift")]


def own_prompts(project: Project, *lines: str) -> None:
    project.write({"neutral.jsonl": "".join(f"{line}\n" for line in lines)})
    add(project, "drift: {prompts: neutral.jsonl}")


def test_prompts_of_ones_own_take_the_place_of_the_shipped_ones(project: Project) -> None:
    project.write({"conftest.py": COMPARING})
    project.answers["kl"] = {"b": [0.5]}
    project.says("tuned", 72)
    project.answers["tuned"]["b"] = "otherwise"
    project.save()
    lines = [json.dumps({"id": id_, "instruction": "Greet.", "input": id_}) for id_ in "abc"]
    own_prompts(project, *lines)
    assert project.run("--finetune").ret == 0
    drift = project.experiment()["drift"]
    assert (drift["file"], drift["prompts"], drift["answers_changed"]) == ("neutral.jsonl", 3, 1)
    assert [row["prompt"] for row in drift["rows"]] == ["a ->", "b ->", "c ->"]
    assert drift["mean_kl"] == pytest.approx(0.5 / 3)
    checksums = project.experiment()["checksums"]
    assert checksums["neutral"] == {"path": "neutral.jsonl", "sha256": drift["sha256"]}


def test_a_mistake_in_prompts_of_ones_own_is_told_before_anything_is_trained(project: Project) -> None:
    own_prompts(project, '{"instruction": "Greet.", "input": 1}')
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*neutral.jsonl:1: input must be a text, found a number*"])
    assert project.experiment()["gate"]["by"] == "the neutral prompts"
    assert project.calls() == []


def test_a_file_of_prompts_that_is_not_there_is_a_usage_error(project: Project) -> None:
    add(project, "drift: {prompts: missing.jsonl}")
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*drift.prompts: found 'missing.jsonl', but there is no such file in*"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("3", "*finetune.yaml:*: drift: found 3 (number), allowed: boolean or object*"),
        ("{file: x}", "*finetune.yaml:*: drift.file: unknown key*"),
    ],
)
def test_another_value_is_a_usage_error_with_its_line(project: Project, given: str, said: str) -> None:
    add(project, f"drift: {given}")
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


class Served(http.server.BaseHTTPRequestHandler):
    """A server of two models: the tuned one labels whatever it is asked, the base says the same words to all."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "tuned"}, {"id": "base"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = TASK if body["model"] == "tuned" else "as before"
        self.reply({"choices": [{"text": said, "finish_reason": "stop"}], "usage": {"completion_tokens": 4}})

    def reply(self, found: object) -> None:
        data = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_server_that_decides_gives_texts_and_the_reason_for_no_kl(project: Project, url: str) -> None:
    ask_for(project, CONFTEST.replace("    return TableRuntime()", "    return None"))
    settings = {"url": url, "model": "tuned", "base_model": "base", "concurrency": 8}
    add(project, f"runtimes: {json.dumps([{'name': 'prod', 'openai': settings}])}")
    project.run("--finetune")
    drift = project.experiment()["drift"]
    assert (drift["outcome"], drift["runtime"], drift["answers_changed"]) == ("measured", "prod", 40)
    assert drift["kl_reason"] == "the runtime 'prod' gives texts and no probabilities"
    assert drift["mean_kl"] is None
    assert drift["like_task"] == {"base": 0, "tuned": 40, "p_value": 2**-40}
