"""Show and compare the runs of a store of 50, each with 200 held-out rows; prints the processor and wall seconds.

    python -P benchmarks/history.py [--runs N] [--rows N] [--limit SECONDS]

The runs are made up and stored as a session stores them; each command runs in a process of its own, start included.
No torch is imported. Exits with 1 when a command takes longer than the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from pytest_finetune.answering.answers import ANSWERS_FILE, Answer, write_answers
from pytest_finetune.fingerprint import digest
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.summary import name_of, summary, write_run
from pytest_finetune.store import Store

RULES = ("label", "strict_json", "stops", "length", "no_prose")
ARMS = ("baseline", "prompted", "tuned")
MEASURED = """
import sys, time
from pytest_finetune.cli import main
code = main(sys.argv[1:])
assert not {"torch", "pytest"} & sys.modules.keys()
print(time.process_time())
sys.exit(code)
"""


def store_run(store: Store, number: int, rows: int) -> str:
    """Store one run with the answers of its arms; return its id."""
    ids = [f"r{row:04d}" for row in range(rows)]
    arms = {arm: _answered(store, arm, number if arm == "tuned" else 0, ids) for arm in ARMS}
    experiment = {
        "name": "finetune",
        "task": "priority",
        "key": digest(number),
        "key_fields": {"lora": {"r": number}, "training": {"learning_rate": 1e-4 * (number + 1)}},
        "config": {
            "lora": {"r": number},
            "paths": {"eval_file": "eval.jsonl"},
            "decision": {"confidence": 0.95},
        },
        "training": {"seconds": 60.0 + number, "steps": 100, "adapter_sha256": digest([number])},
        "arms": arms,
        "rules": {rule: _scored(rule, number, ids) for rule in RULES},
        "decision": {
            "verdict": ("keep", "iterate", "discard")[number % 3],
            "looks": number + 1,
            "reasons": ["so"],
        },
        "held_out": [{"id": id_, "file": "eval.jsonl", "digest": digest(id_)} for id_ in ids],
    }
    record = {"created": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}+00:00"}
    one = RecordedExperiment.of(experiment)
    write = partial(write_run, record=record, one=one)
    return store.commit("records", name_of(one), write, summary(record, one)).key


def _answered(store: Store, arm: str, number: int, ids: list[str]) -> dict[str, Any]:
    said = [
        Answer(id_, at, "a prompt of some length " * 8, f"{arm} {number if at % 7 == 0 else 0}", 9, 0.1, True)
        for at, id_ in enumerate(ids, 1)
    ]
    key = digest([[answer.id, answer.response] for answer in said])
    if store.read("outputs", key) is None:
        store.commit("outputs", key, lambda to: write_answers(to / ANSWERS_FILE, said))
    rate = {"passed": 90, "total": 100, "rate": 0.9, "interval": [0.8, 0.95]}
    return {"outputs_key": key, "answers_sha256": key, "rules": dict.fromkeys(RULES, rate)}


def _scored(rule: str, number: int, ids: list[str]) -> dict[str, Any]:
    scores = {arm: [int((at + number * (arm == "tuned")) % 10 > 2) for at in range(len(ids))] for arm in ARMS}
    return {
        "primary": rule == "label",
        "sha256": digest(rule),
        "outcome": "passed",
        "rows": ids,
        "scores": scores,
    }


def measure(root: Path, *words: str) -> tuple[float, float]:
    """Run a command in a process of its own; return its processor seconds and the wall seconds around it."""
    began = time.perf_counter()
    command = [sys.executable, "-P", "-c", MEASURED, *words, "--rootdir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1]), time.perf_counter() - began


def main() -> int:
    """Print what each command takes."""
    parser = argparse.ArgumentParser(description="Show and compare stored runs.")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--limit", type=float, default=1.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(root / ".finetune")
        names = [store_run(store, number, chosen.rows) for number in range(chosen.runs)]
        print(f"{chosen.runs} runs of {chosen.rows} rows, {len(RULES)} rules, {len(ARMS)} arms")
        slowest = 0.0
        for words in (["history"], ["history", "--html"], ["compare", names[0], names[-1]]):
            processor, wall = measure(root, *words)
            shown = " ".join(word[:12] for word in words)
            print(f"{shown:36} {processor:.2f} s of processor time, {wall:.2f} s")
            slowest = max(slowest, processor)
    return 0 if slowest <= chosen.limit else 1


if __name__ == "__main__":
    sys.exit(main())
