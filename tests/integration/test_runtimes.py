"""Several runtimes in one session: the first decides, the others are compared with it, a dead one decides nothing."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import row_id

if TYPE_CHECKING:
    from .conftest import Project

MATCH = """\
def test_the_served_model_is_the_judged_one(runtime_match):
    (match,) = runtime_match
    assert (match.first, match.second) == ("transformers", "prod")
    assert match.text.rate >= 0.95
    assert match["label"].rate >= 0.99
"""

# A server without a model: its answers are a table's, and after `limit` of them it ends.
SERVER = r"""
import http.server, json, os, sys
port, limit = int(sys.argv[1]), int(sys.argv[2])
table = {said["input"]: said["answer"] for said in json.load(open("served.json"))}
print("serving on", port, flush=True)
asked = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass
    def reply(self, found):
        data = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        self.reply({})
    def do_POST(self):
        global asked
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked += 1
        if asked > limit:
            print("torch.OutOfMemoryError: out of memory", flush=True)
            os._exit(3)
        text = table[body["prompt"].removesuffix(" ->")]
        self.reply({"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 4}})

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def elsewhere(project: Project, *, differ: int) -> None:
    """Let a runtime of the project's own, `prod`, answer as the first does but for the first rows."""
    said = dict(project.answers["tuned"])
    said |= {row_id(i): '{"label": "none"}' for i in range(differ)}
    project.answers["tuned in prod"] = said
    project.save()
    conftest = (project.path / "conftest.py").read_text()
    conftest = conftest.replace("class TableRuntime:\n", "class TableRuntime:\n    place = ''\n")
    conftest = conftest.replace('"tuned" if adapter', '"tuned" + self.place if adapter')
    conftest = conftest.replace(
        "    return TableRuntime()",
        "    found = TableRuntime()\n    found.place = '' if name == 'transformers' else ' in ' + name\n    return found",
    )
    project.write({"conftest.py": conftest})
    runtimes(project, ["transformers", "prod"])


def serve(project: Project, *, limit: int = 10_000, **settings: Any) -> None:
    """Let a server that the session starts be the second runtime."""
    conftest = (project.path / "conftest.py").read_text()
    conftest = conftest.replace(
        "    return TableRuntime()", "    return TableRuntime() if name == 'transformers' else None"
    )
    rows = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
    said = [{"input": row["input"], "answer": project.answers["tuned"][row["id"]]} for row in rows]
    project.write({"conftest.py": conftest, "server.py": SERVER, "served.json": json.dumps(said)})
    command = [sys.executable, "server.py", "{port}", str(limit)]
    given = {"serve": command, "model": "tuned", "concurrency": 2, "retries": 0, **settings}
    runtimes(project, ["transformers", {"name": "prod", "openai": given}])


def runtimes(project: Project, names: list[Any]) -> None:
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text() + f"runtimes: {json.dumps(names)}\n")


def test_a_second_runtime_is_compared_row_by_row_and_the_first_decides(project: Project) -> None:
    elsewhere(project, differ=2)
    project.write({"test_match.py": MATCH})
    result = project.run("--finetune")
    result.assert_outcomes(
        passed=4, failed=1
    )  # 78 of 80 are 97.5%: the text is alike enough, the label is not
    experiment = project.experiment()
    assert experiment["decision"]["verdict"] == "keep"
    rows = [row_id(0), row_id(1)]
    moved = experiment["runtime_match"][0].pop("moved")
    assert (moved["label"]["worse"], moved["label"]["better"]) == (rows, [])
    assert (moved["label"]["total"], moved["label"]["gain"]) == (80, -0.025)
    assert experiment["runtime_match"] == [
        {
            "first": "transformers",
            "second": "prod",
            "text": {"same": 78, "total": 80, "rows": rows},
            "rules": {
                "strict_json": {"same": 80, "total": 80, "rows": []},
                "label": {"same": 78, "total": 80, "rows": rows},
            },
        }
    ]
    assert experiment["arms"]["tuned@prod"]["rules"]["label"]["passed"] == 70
    assert experiment["decision"]["risks"][-1] == (
        "decided on the answers in transformers; in prod the tuned model alone answered, "
        "so no gain was compared there"
    )
    result.stdout.fnmatch_lines(
        [
            "  runtimes  prod like transformers: 78 of 80 texts, 78 of 80 scores",
            "  runtimes  in prod: 2 rows worse, 0 better, -2.5 points *",
        ]
    )
    assert not [line for line in result.outlines if line.startswith("  gain over tuned@")]
    page = (project.path / "finetune-record" / "report.html").read_text()
    assert "The tuned model in prod, against transformers" in page
    assert "78 of 80" in page


def test_a_runtime_that_disagrees_is_a_risk_of_a_keep(project: Project) -> None:
    elsewhere(project, differ=20)
    project.run("--finetune")
    decision = project.experiment()["decision"]
    assert decision["verdict"] == "keep"
    assert decision["risks"][-3] == (
        "transformers and prod agree on 60 of 80 rows only under label: what was judged is not what prod serves"
    )


def test_a_runtime_that_disagrees_is_the_next_change_of_what_is_not_kept(project: Project) -> None:
    project.says("tuned", 4)
    elsewhere(project, differ=80)
    project.says("baseline", 0)
    answers = project.answers["tuned in prod"]
    answers |= {row_id(i): project.answers["tuned"][row_id(0)] for i in range(80)}
    project.save()
    project.run("--finetune")
    decision = project.experiment()["decision"]
    assert decision["verdict"] != "keep"
    assert decision["next_change"]["change"] == "make prod answer like transformers"
    assert "transformers and prod agree on " in decision["next_change"]["because"]


def test_one_runtime_has_no_match_and_no_line(project: Project) -> None:
    project.write({"test_match.py": "def test_none(runtime_match):\n    assert runtime_match == ()\n"})
    result = project.run("--finetune")
    result.assert_outcomes(passed=5)
    assert project.experiment()["runtime_match"] == []
    assert not [line for line in result.outlines if line.startswith("  runtimes")]


def test_another_runtime_asks_the_first_nothing_again_and_is_no_new_look(project: Project) -> None:
    elsewhere(project, differ=0)
    file = project.path / "finetune.yaml"
    both = file.read_text()
    file.write_text(both.replace(', "prod"', ""))
    project.run("--finetune")
    project.calls()
    file.write_text(both)
    project.run("--finetune")
    assert [call for call in project.calls() if call != "release"] == ["answer tuned in prod"]
    assert project.experiment()["decision"]["looks"] == 1


def test_a_rule_that_the_match_does_not_have_is_named(project: Project) -> None:
    elsewhere(project, differ=0)
    project.write(
        {"test_match.py": "def test_it(runtime_match):\n    assert runtime_match[0]['lable'].rate == 1\n"}
    )
    result = project.run("--finetune")
    result.stdout.fnmatch_lines(["*there is no rule 'lable' that ran in prod; known: strict_json, label*"])


def test_a_server_is_started_asked_stored_and_ended(project: Project) -> None:
    serve(project)
    result = project.run("--finetune")
    result.assert_outcomes(passed=4)
    (match,) = project.experiment()["runtime_match"]
    assert match["text"] == {"same": 80, "total": 80, "rows": []}
    (log,) = (project.path / ".finetune" / "logs").iterdir()
    assert log.name == "priority-prod.log" or log.name.endswith("-prod.log")
    assert "serving on" in log.read_text()
    log.unlink()
    project.run("--finetune").assert_outcomes(passed=4)
    assert not log.exists()  # with everything stored, no server is started
    assert project.experiment()["arms"]["tuned@prod"]["reused"]


def test_a_changed_command_asks_again(project: Project) -> None:
    serve(project)
    project.run("--finetune")
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace('"10000"', '"20000"'))
    project.run("--finetune")
    assert not project.experiment()["arms"]["tuned@prod"]["reused"]
    assert project.experiment()["arms"]["tuned"]["reused"]


def test_a_server_that_dies_is_an_error_with_its_log_and_leaves_no_half_record(project: Project) -> None:
    serve(project, limit=30)
    result = project.run("--finetune")
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*runtime 'prod': *of 80*none of them is kept*",
            "*command: * server.py *",
            "*its log ends with (all of it: *",
            "*torch.OutOfMemoryError: out of memory",
            "*the server has ended with exit status 3",
        ]
    )
    experiment = project.experiment()
    decision = experiment["decision"]
    assert (decision["verdict"], decision["undecided"]) == ("iterate", True)
    assert "tuned@prod" not in experiment["arms"]
    assert experiment["runtime_match"] == []
    assert {rule["outcome"] for rule in experiment["rules"].values()} == {"error"}
    outputs = sorted(path.name for path in (project.path / "finetune-record" / "outputs").iterdir())
    assert outputs == ["baseline.jsonl", "majority.jsonl", "tuned.jsonl"]
    # What was answered before is not lost, and the next run asks for what is missing alone.
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace('"30"', '"10000"'))
    project.calls()
    project.run("--finetune").assert_outcomes(passed=4)
    assert [call for call in project.calls() if call != "release"] == []
    assert project.experiment()["decision"]["verdict"] == "keep"


def test_a_server_that_applies_the_bases_penalty_all_the_same_is_named_as_the_cause(project: Project) -> None:
    serve(project)
    project.write({"base/generation_config.json": '{"repetition_penalty": 1.3, "top_k": 20}'})
    table = json.loads((project.path / "served.json").read_text())
    for said in table[::2]:
        said["answer"] = '{"label": "none"}'
    project.write({"served.json": json.dumps(table)})
    project.run("--finetune")
    experiment = project.experiment()
    told = {"base_sets": {"repetition_penalty": 1.3}, "refused": []}
    assert experiment["arms"]["tuned@prod"]["decoding"] == told
    (match,) = experiment["runtime_match"]
    assert match["text"]["same"] == 44  # every tenth answer of the tuned model was this before
    assert match["cause"].startswith(
        "generation_config.json of the base sets repetition_penalty 1.3, without which"
    )
    risks = " ".join(experiment["decision"]["risks"])
    assert f"what was judged is not what prod serves; look first at this: {match['cause']}" in risks
    assert (
        "sets repetition_penalty 1.3: the decision was made without, and a server applies it unless" in risks
    )
    assert (
        "Look first at this: generation_config.json of the base"
        in (project.path / "finetune-record" / "report.html").read_text()
    )
    project.run("--finetune")  # the answers are stored, and what is known of them with them
    again = project.experiment()
    assert again["arms"]["tuned@prod"]["reused"]
    assert again["arms"]["tuned@prod"]["decoding"] == told


def test_an_adapter_that_was_compared_in_two_runtimes_is_promoted(project: Project) -> None:
    elsewhere(project, differ=1)
    fit = "import pytest\n\n@pytest.mark.oom_fit\ndef test_fits(experiment):\n    assert experiment.name\n"
    project.write({"test_fit.py": fit})
    result = project.run("--finetune", "--finetune-promote")
    result.stdout.fnmatch_lines(["promoted: *artifacts/adapter"])


def test_an_unknown_runtime_is_named(project: Project) -> None:
    serve(project)
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().partition("runtimes:")[0] + "runtimes: [transformers, vlm]\n")
    result = project.run("--finetune")
    result.stdout.fnmatch_lines(["*runtimes: 'vlm' is not known: 'transformers' is built in; *"])


@pytest.mark.parametrize("workers", ["-n2"])
def test_workers_compare_runtimes_too(project: Project, workers: str) -> None:
    pytest.importorskip("xdist")
    elsewhere(project, differ=2)
    project.run("--finetune", workers)
    assert project.experiment()["runtime_match"][0]["text"]["same"] == 78
