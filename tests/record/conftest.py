"""Realistic records of every way a session can end, built from a fixed seed."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_finetune.record.views.page.document import summary_html

Record = dict[str, Any]
Answers = dict[str, dict[str, list[dict[str, Any]]]]


class Sample(NamedTuple):
    record: Record
    answers: Answers


TASK = "Classify the support ticket priority and return strict JSON."
WHO = (
    "All users of the EU region",
    "One customer",
    "The finance team",
    "A trial account",
    "Our largest client",
)
WHAT = (
    (
        "cannot log in since 06:40; the status page is green",
        "critical",
        "logins fail for everyone, no way around",
    ),
    (
        "sees export files with yesterday's numbers, invoices go out tonight",
        "high",
        "wrong numbers, deadline today",
    ),
    ("asks how to rename a saved dashboard", "low", "a question, nobody is blocked"),
    ("gets a time-out on reports over 10,000 rows, smaller ones work", "medium", "slow, with a way around"),
    ("cannot print from Safari, Chrome works", "low", "another browser works"),
    ("lost write access after the role migration", "high", "one team is blocked"),
)
PROSE = (
    "The priority of this ticket is {label} because {why}.",
    'Sure! Here is the JSON:\n```json\n{{"priority": "{label}", "reason": "{why}"}}\n```',
    "I would say that this is a {label} priority ticket. Please let me know if you need anything else, and I",
)


def interval(passed: int, total: int) -> list[float]:
    """Wilson's interval: close enough to look real."""
    z, p = 1.96, passed / total
    middle, half = p + z * z / 2 / total, z * math.sqrt(p * (1 - p) / total + z * z / 4 / total / total)
    return [round((middle - half) / (1 + z * z / total), 4), round((middle + half) / (1 + z * z / total), 4)]


def held_out_rows(rng: random.Random, count: int) -> list[dict[str, Any]]:
    rows = []
    for place in range(count):
        what, label, why = WHAT[place % len(WHAT)]
        tags = ["borderline"] if place % 7 == 0 else ["negative"] if place % 11 == 0 else []
        rows.append(
            {
                "id": f"r{rng.getrandbits(44):011x}",
                "line": place + 1,
                "file": "eval/check.jsonl",
                "input": f"{WHO[place % len(WHO)]} {what}. Ticket {4100 + place}.",
                "expected": json.dumps({"priority": label, "reason": why}),
                "tags": tags,
                "group": f"customer-{place % 40}",
                "digest": f"{rng.getrandbits(256):064x}",
            }
        )
    return rows


def answer(rng: random.Random, row: dict[str, Any], *, strict: bool, right: bool) -> str:
    wanted = json.loads(row["expected"])
    label = (
        wanted["priority"]
        if right
        else rng.choice([x for x in ("high", "medium", "low") if x != wanted["priority"]])
    )
    if strict:
        return " " + json.dumps({"priority": label, "reason": wanted["reason"]})
    return " " + rng.choice(PROSE).format(label=label, why=wanted["reason"])


def answered(
    rng: random.Random, rows: list[dict[str, Any]], strict: list[int], right: list[int]
) -> list[dict[str, Any]]:
    return [
        {
            "id": row["id"],
            "line": row["line"],
            "prompt": f"Instruction: {TASK}\nInput: {row['input']}\nAnswer:",
            "response": answer(rng, row, strict=bool(is_strict), right=bool(is_right)),
            "tokens": 80 if not is_strict and rng.random() < 0.3 else rng.randint(18, 36),
            "seconds": round(rng.uniform(0.02, 0.06), 3),
            "stopped": bool(is_strict),
        }
        for row, is_strict, is_right in zip(rows, strict, right, strict=True)
    ]


def compared(
    rule: str, ids: list[str], tuned: list[int], against: str, other: list[int], verdict: str
) -> dict[str, Any]:
    fixed = [i for i, t, o in zip(ids, tuned, other, strict=True) if t > o]
    broken = [i for i, t, o in zip(ids, tuned, other, strict=True) if t < o]
    count = len(ids)
    gain = (len(fixed) - len(broken)) / count
    half = 1.96 * math.sqrt(max(len(fixed) + len(broken), 3)) / count
    return {
        "rule": rule,
        "against": against,
        "gain": gain,
        "interval": [max(gain - half, -1.0), min(gain + half, 1.0)],
        "p_value": min(1.0, 0.5 ** (len(fixed) - len(broken))),
        "fixed": fixed,
        "broken": broken,
        "same": count - len(fixed) - len(broken),
        "verdict": verdict,
        "sentence": f"{len(fixed)} rows fixed and {len(broken)} broken against {against}.",
    }


def coins(rng: random.Random, count: int, rate: float) -> list[int]:
    return [int(rng.random() < rate) for _ in range(count)]


def rule(name: str, **over: Any) -> dict[str, Any]:
    return {
        "nodeid": f"test_rules.py::test_{name}", "primary": False, "guard": False, "min_rate": None,
        "min_rate_bound": None, "min_gain": None, "max_loss": None, "confidence": 0.95, "suite": None,
        "sha256": "5f" * 32, "changed_after_look": False, "outcome": "passed", "reasons": [], "skipped": [],
        "messages": {}, **over,
    }  # fmt: skip


def experiment(
    name: str, seed: int, rates: dict[str, tuple[float, float]], verdict: str, count: int = 160
) -> tuple[Record, Any]:
    """One finished experiment; `rates` gives each arm's rate of right labels and of strict JSON."""
    rng = random.Random(seed)
    rows = held_out_rows(rng, count)
    ids = [row["id"] for row in rows]
    strict = {arm: coins(rng, count, rate[1]) for arm, rate in rates.items()}
    right = {
        arm: [r & s for r, s in zip(coins(rng, count, rate[0]), strict[arm], strict=True)]
        for arm, rate in rates.items()
    }
    answers = {arm: answered(rng, rows, strict[arm], right[arm]) for arm in rates}
    scores = {"priority": right, "strict_json": strict, "short_reason": {arm: [1] * count for arm in rates}}
    arms = {
        arm: {
            "runtime": "transformers 5.23.0", "outputs": f"outputs/{arm}.jsonl", "reused": arm == "baseline",
            "answers": count, "tokens": sum(a["tokens"] for a in answers[arm]),
            "seconds": round(sum(a["seconds"] for a in answers[arm]), 2), "stopped": sum(a["stopped"] for a in answers[arm]),
            "rules": {
                r: {"passed": sum(by[arm]), "total": count, "rate": sum(by[arm]) / count, "interval": interval(sum(by[arm]), count)}
                for r, by in scores.items()
            },
        }
        for arm in rates
    }  # fmt: skip
    failing = verdict != "keep"
    rules = {
        "priority": rule("priority", primary=True, min_gain=0.1, outcome="failed" if failing else "passed",
                         reasons=["a gain of 10 points over the base is not demonstrated"] if failing else []),
        "strict_json": rule("strict_json", min_rate=0.95, outcome="passed"),
        "short_reason": rule("short_reason", guard=True, outcome="passed", reasons=["a loss of up to 2.3 points is not excluded"]),
    }  # fmt: skip
    for rule_name, entry in rules.items():
        entry["rows"], entry["scores"] = ids, scores[rule_name]
        for arm in rates:
            entry["messages"][arm] = {
                i: f"AssertionError: {rule_name} does not hold\nassert 'low' == 'high'"
                for i, s in zip(ids, scores[rule_name][arm], strict=True)
                if not s
            }
    pairs = [
        compared(
            r, ids, by["tuned"], against, by[against], "beats" if verdict == "keep" else "not demonstrated"
        )
        for r, by in scores.items()
        for against in rates
        if against != "tuned"
    ]
    record = {**RUN, "name": name, "held_out": rows, "arms": arms, "rules": rules, "comparisons": pairs}
    record["drift"] = drift()
    record["decision"] = {**DECISIONS[verdict], "looks": 1, "alpha": 0.025, "rules_sha256": "ab" * 32}
    return copy.deepcopy(record), answers


def drift() -> Record:
    """Six neutral prompts of which the tuned model answers four in other words and one with its task."""
    from pytest_finetune.judging.drift import Drift, DriftRow

    tuned = ("Lisbon", "It is Lisbon.", "Lisbon, of course.", "lisbon", '{"priority": "low"}', "")
    rows = tuple(
        DriftRow(
            f"question-{n}", "What is the capital of Portugal?", "Lisbon", said, 3, 0.25 * n, False, n == 4
        )
        for n, said in enumerate(tuned)
    )
    asked = {"file": None, "sha256": "cd" * 32, "runtime": "transformers"}
    return {**Drift(rows, told_by="contract").facts(), **asked}


SHARED = json.loads(Path(__file__).with_name("sample_run.json").read_text(encoding="utf-8"))
RUN: Record = SHARED["run"]
DECISIONS: dict[str, Record] = SHARED["decisions"]


def session(*experiments: Record, **over: Any) -> Record:
    stages = ("data", "fit", "rules", "decision")
    tests = [
        {"nodeid": f"test_{stage}.py::test_{stage}_stage", "stage": stage, "experiment": one["name"], "outcome": "passed",
         "seconds": 0.2, "message": None}
        for one in experiments
        for stage in stages
    ]  # fmt: skip
    return {
        "schema_version": "1", "created": "2026-11-20T09:30:00+00:00", "command": "pytest --finetune", "exit_status": 0,
        "project": "support-tickets", "plugin_version": "0.1.0", "experiments": list(experiments), "tests": tests, "notes": [],
        **over,
    }  # fmt: skip


def stopped(**over: Any) -> Record:
    """An experiment that did not get past its first stages."""
    nothing: Record = {
        "training": None,
        "arms": {},
        "rules": {},
        "held_out": [],
        "comparisons": [],
        "decision": None,
    }
    return {
        **copy.deepcopy(RUN),
        "name": "finetune",
        **nothing,
        "key": None,
        "key_fields": None,
        "key_changed": {},
        **over,
    }


def keep() -> Sample:
    one, answers = experiment(
        "finetune", 1, {"baseline": (0.5, 0.05), "prompted": (0.7, 0.7), "tuned": (0.95, 0.99)}, "keep"
    )
    return Sample(session(one), {"finetune": answers})


def rich() -> Sample:
    """A kept adapter with every part that only some records have."""
    rates = {"baseline": (0.5, 0.4), "prompted": (0.7, 0.7), "best_prompt": (0.6, 0.7), "champion": (0.6, 0.9),
             "tuned": (0.95, 0.99), "tuned@merged": (0.9, 0.99)}  # fmt: skip
    one, answers = experiment("finetune", 6, rates, "keep", count=24)
    ids = one["rules"]["priority"]["rows"]
    one["planned_arms"] = {
        arm: {"model": "base", "prompts": "zero-shot", "runtime": "transformers", "min_gain": None,
              "opponent": not arm.startswith("tuned")}
        for arm in rates
    }  # fmt: skip
    short = {"gain": 0.25, "interval": [0.05, 0.4], "p_value": 0.03, "fixed": 7, "broken": 1}
    one["pairs"] = [
        {"rule": name, "arm": "prompted", "against": against, **short}
        for name in ("priority", "strict_json")
        for against in ("baseline", "champion")
    ]
    one["noise"] = {"2": {"run": 2, "changed": ids[:3]}}
    first = one["rules"]["priority"]["scores"]["baseline"]
    one["rules"]["priority"]["noise"] = [[1 - first[0], *first[1:]]]
    one["rules"]["priority"]["confusion"] = {
        arm: {"high": {"high": 9, "low": 2}, "low": {"": 1, "low": 12}} for arm in rates
    }
    one["prompt_candidates"] = {
        "rows": ["data/train.jsonl:3", "data/train.jsonl:8"], "rule": "priority", "best": 1,
        "tried": [{"template": template, "passed": n, "total": 2, "rate": n / 2}
                  for n, template in enumerate(("Say {input}", "JSON only.\n{input}"))],
    }  # fmt: skip
    one["training"] |= {
        "reused": True, "reuse": "semantic", "reused_from": {"versions.torch": ["2.12.0", "2.13.0"]},
        "retrained": {"before_sha256": "c3" * 32, "same_weights": False, "largest_difference": 0.0003,
                      "answers_changed": 2, "answers": 24},
        "held_out_loss": [{"step": 60, "epoch": 1, "loss": 0.9}, {"step": 120, "epoch": 2, "loss": 0.4}],
    }  # fmt: skip
    agreed = {"same": 22, "total": 24, "rows": ids[4:6]}
    one["runtime_match"] = [
        {
            "first": "transformers",
            "second": "merged",
            "text": agreed,
            "rules": {"priority": agreed},
            "moved": {
                "priority": {
                    "worse": ids[4:6],
                    "better": [],
                    "total": 24,
                    "gain": -2 / 24,
                    "interval": [-0.26, 0.04],
                }
            },
        }
    ]
    sliced = one["rules"]["strict_json"]
    sliced |= {
        "changed_after_look": True, "slice": "tags", "protected": ["negative"],
        "slice_rows": {"negative": ids[:4], "plain": ids[4:]},
    }  # fmt: skip
    score = {"total": 4, "passed": 3, "rate": 0.75, "interval": [0.19, 0.99]}
    for arm in one["arms"].values():
        arm["rules"]["strict_json"]["slices"] = {
            part: score | {"protected": part == "negative"} for part in ("negative", "plain")
        }
    gained = {"gain": 0.5, "gain_interval": [-0.1, 0.9], "verdict": "not worse"}
    one["arms"]["tuned"]["rules"]["strict_json"]["slices"]["negative"] |= gained
    return Sample(session(one), {"finetune": answers})


def iterate() -> Sample:
    one, answers = experiment(
        "finetune", 2, {"baseline": (0.6, 0.6), "prompted": (0.75, 0.98), "tuned": (0.8, 0.97)}, "iterate"
    )
    one["training"].update(reused=True)
    return Sample(session(one, exit_status=1), {"finetune": answers})


def discard() -> Sample:
    one, answers = experiment("finetune", 3, {"baseline": (0.8, 0.95), "tuned": (0.5, 0.9)}, "discard")
    one["memory"]["measured_peak_bytes"] = 455 * 2**20
    return Sample(session(one, exit_status=1), {"finetune": answers})


def gate_closed() -> Sample:
    wrong = [
        {"rule": "data/duplicate-key", "severity": "error", "read": "the key 'priority' stands twice in one answer",
         "why": "a parser keeps the last one, a model learns both", "fix": "delete one of the two", "file": "data/train.jsonl", "line": line}
        for line in (17, 41, 208)
    ]  # fmt: skip
    one = stopped()
    one["data"]["findings"] = wrong
    record = session(one, exit_status=1)
    record["tests"][0].update(outcome="failed", message="AssertionError: 3 findings in 480 rows")
    return Sample(record, {})


def data_only() -> Sample:
    return Sample(session(stopped(), command="pytest"), {})


def crash() -> Sample:
    record = session(stopped(key="3fa29c1b" * 8), exit_status=1)
    record["tests"][2].update(
        stage="training", nodeid="test_rules.py::test_priority", outcome="error",
        message="TrainingError: no module matches target 'qproj'; this model has q_proj, k_proj, v_proj, o_proj",
    )  # fmt: skip
    return Sample(record, {})


def too_large() -> Sample:
    one = stopped()
    one["memory"].update(
        predicted_peak_bytes=int(27.4 * 2**30), budget_bytes=24 * 2**30, budget_name="NVIDIA RTX 4090", fits="does not fit",
        breakdown={"weights": int(14.2 * 2**30), "adapter and optimizer": int(1.1 * 2**30), "activations": int(9.8 * 2**30),
                   "logits": int(2.3 * 2**30)},
        remedies=[{"change": "training.max_seq_length: 1024", "peak_bytes": int(18.1 * 2**30), "enough": True},
                  {"change": "training.gradient_checkpointing: true", "peak_bytes": int(19.1 * 2**30), "enough": True}],
    )  # fmt: skip
    return Sample(session(one, exit_status=1), {})


def several() -> Sample:
    one, one_answers = experiment(
        "small", 4, {"baseline": (0.5, 0.05), "prompted": (0.7, 0.7), "tuned": (0.95, 0.99)}, "keep"
    )
    two, two_answers = experiment(
        "wide", 5, {"baseline": (0.6, 0.6), "prompted": (0.75, 0.98), "tuned": (0.8, 0.97)}, "iterate"
    )
    for run in (one, two):
        for arm, about in run["arms"].items():
            about["outputs"] = f"outputs/{run['name']}/{arm}.jsonl"
    return Sample(session(one, two, exit_status=1), {"small": one_answers, "wide": two_answers})


MAKERS: dict[str, Callable[[], Sample]] = {
    "keep": keep, "iterate": iterate, "discard": discard, "gate_closed": gate_closed, "data_only": data_only,
    "crash": crash, "too_large": too_large, "several": several, "rich": rich,
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def sample(request: pytest.FixtureRequest) -> Sample:
    """Every way a session can end, one after the other."""
    return MAKERS[request.param]()


@pytest.fixture(scope="session")
def make() -> Callable[[str], Sample]:
    """Build one sample by name."""
    return lambda name: MAKERS[name]()


HOSTILE = "".join(
    (
        "<script>document.documentElement.dataset.ran='yes'</script><img src=x onerror=\"document.documentElement.dataset.ran='yes'\">",
        "\"'><svg onload=alert(1)></title></style></textarea>--><!-- ]]> {{7*7}} ${x} &lt;b&gt; javascript:alert(1)",
        "\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b31m\r\b\x00\x7f\u202ereversed\u2066\u2028\u200b\ufeff\U000e0041\ud800",
        "\n::error file=x::forged\n::set-output name=decision::keep\n## forged heading\n- [x](http://example.invalid) ![i](http://example.invalid/i.png)",
        " |pipe| `tick``tick` *bold* _em_ ~~gone~~ <http://example.invalid> www.example.invalid @team #1 https://example.invalid\n---\n===\n",
        "verylongwordwithoutanyspace" * 12,
        " العربية 日本語のテキスト 🏳️‍🌈 e\u0301",
    )
)
KEPT_VALUES = {
    "schema_version",
    "created",
    "key",
    "sha256",
    "adapter_sha256",
    "verdict",
    "outcome",
    "severity",
    "fits",
    "against",
    "reuse",
    "before_sha256",
}


def structural_keys(schema: object) -> set[str]:
    """Every property that the schema names: those keys are ours, all others are data."""
    if isinstance(schema, dict):
        own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
        return own.union(*(structural_keys(value) for value in schema.values()))
    return set().union(*map(structural_keys, schema)) if isinstance(schema, list) else set()


def poisoned(value: Any, kept: set[str], key: str = "") -> Any:
    """Append the hostile text to every string and every foreign key, the same way everywhere."""
    if isinstance(value, dict):
        return {
            name if name in kept else name + HOSTILE: poisoned(item, kept, name)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, kept, key) for item in value]
    return value + HOSTILE if isinstance(value, str) and key not in KEPT_VALUES else value


def made_hostile(sample: Sample) -> Sample:
    """Put hostile text into every text field; every experiment gets an arm with a hostile name as well."""
    from pytest_finetune.record.validate import schema

    kept = structural_keys(schema()) | {"baseline", "prompted", "tuned", "contract", "experiment"}
    record = poisoned(sample.record, kept)
    answers: Answers = {
        name + HOSTILE: poisoned(arms, kept | {"prompt", "response"}) for name, arms in sample.answers.items()
    }
    for run in record["experiments"]:
        if run["arms"]:
            run["arms"]["serving" + HOSTILE] = copy.deepcopy(run["arms"]["tuned"])
            answers[run["name"]]["serving" + HOSTILE] = answers[run["name"]]["tuned"]
    return Sample(record, answers)


@pytest.fixture
def hostile(sample: Sample) -> Sample:
    """Every way a session can end, with hostile text in every text field."""
    return made_hostile(sample)


@pytest.fixture
def hostile_keep() -> Sample:
    """A kept adapter, with hostile text in every text field."""
    return made_hostile(keep())


def words(sample: Any) -> str:
    """Return what a reader of the page sees, in one line."""
    source = re.sub(r"<(style|script)>.*?</\1>", "", summary_html(sample.record, sample.answers))
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", source)).split())
