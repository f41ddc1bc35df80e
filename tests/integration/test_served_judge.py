"""A stand-in judge behind a server: right four times in five, kinder to the tuned model, and wavering on some rows."""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Iterator

import pytest

from .conftest import LABELS, Project, make_project, row_id

ROWS = 160
RULES = """\
from pytest_finetune import rules

test_right = rules.judge("It names the expected label.", endpoint={url!r}, model="stand-in", primary=True, min_gain=0.05)
"""


class StandIn:
    """Knows the truth, errs on a fifth of the answers, passes more wrong answers of the tuned model, and wavers."""

    def __init__(self) -> None:
        self.asked = 0
        self._times: dict[str, int] = {}
        self._lock = threading.Lock()

    def says(self, shown: str) -> bool:
        fence = shown.splitlines()[1]
        question, expected, answer = (part.strip("\n") for part in shown.split(fence)[1::2])
        with self._lock:
            self.asked += 1
            times = self._times[question + answer] = self._times.get(question + answer, 0) + 1
        draw = random.Random(question + answer)
        said = right(answer, json.loads(expected)["label"])
        said ^= draw.random() < 0.2
        said |= is_tuned(answer) and draw.random() < 0.25
        return said ^ (draw.random() < 0.15 and times % 2 == 0)


def right(answer: str, label: str) -> bool:
    return bool(json.loads(answer)["label"] == label)


def is_tuned(answer: str) -> bool:
    return "sure" in json.loads(answer)


def says(project: Project, arm: str, share: float) -> None:
    draw = random.Random(arm)
    project.answers[arm] = {
        row_id(i): json.dumps(
            {
                "label": LABELS[i % 4] if draw.random() < share else "none",
                **({"sure": 1} if arm == "tuned" else {}),
            }
        )
        for i in range(ROWS)
    }
    project.save()


@pytest.fixture
def judge() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            verdict = {"pass": stand_in.says(body["messages"][1]["content"]), "why": "so I find"}
            said = {"choices": [{"message": {"content": json.dumps(verdict)}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand_in, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def label_all(project: Project) -> None:
    """Let people, who are always right, label every answer that is compared."""
    outputs = (project.path / "finetune-record" / "outputs" / "majority.jsonl").read_text().splitlines()
    majority = {said["id"]: said["response"] for said in map(json.loads, outputs)}
    lines = [
        {"id": row, "arm": arm, "answer": answer, "pass": right(answer, LABELS[int(row[1:]) % 4])}
        for arm in ("baseline", "tuned", "majority")
        for row, answer in {**project.answers, "majority": majority}[arm].items()
    ]
    project.write({"eval/judge_labels.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})


def test_a_judge_that_errs_leans_and_wavers_keeps_nothing(
    pytester: pytest.Pytester, judge: tuple[StandIn, str]
) -> None:
    stand_in, url = judge
    project = make_project(pytester, rows=ROWS)
    says(project, "baseline", 0.5)
    says(project, "tuned", 0.52)
    project.write({"test_rules.py": RULES.format(url=url)})

    assert project.run("--finetune").ret == 1
    first = project.experiment()
    assert first["decision"]["undecided"]
    assert "is a judge: nobody has checked it" in first["decision"]["reasons"][0]
    verdicts = first["rules"]["right"]["verdicts"]
    assert verdicts["judge"] == f"stand-in at {url}"
    assert 0.15 < len(verdicts["contradicted"]) / ROWS < 0.45

    label_all(project)
    asked = stand_in.asked
    project.run("--finetune")
    second = project.experiment()
    assert stand_in.asked == asked  # a second session repeats every verdict
    assert second["rules"]["right"]["scores"] == first["rules"]["right"]["scores"]
    assert second["decision"]["looks"] == 1
    assert not second["decision"]["undecided"]
    assert not second["decision"]["keep"]
    (pair,) = [one for one in second["comparisons"] if one["against"] == "baseline"]
    assert pair["noisy"] == verdicts["contradicted"]
    assert not set(pair["fixed"]) & set(verdicts["contradicted"])
    agreement = second["rules"]["right"]["verdicts"]["agreement"]
    assert agreement["tuned"]["bias"] - agreement["baseline"]["bias"] > 0.05
    assert 0.65 < agreement["baseline"]["agreement"] < 0.9
    assert any("may be its bias towards the tuned model" in why for why in second["decision"]["reasons"])

    project.run("--finetune", "--finetune-rejudge")
    assert stand_in.asked > asked
    assert project.experiment()["decision"]["looks"] == 2
