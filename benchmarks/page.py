"""Measure the page over 2,000 held-out rows: how large it is, and how fast Chromium opens it.

python -m benchmarks.page [--rows 2000] [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.chromium import Browser
from pytest_finetune.record.views.page.document import summary_html

LABELS: Final = ("critical", "high", "medium", "low")
PAINTED: Final = (
    "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
)
MOST_BYTES: Final = 5_000_000
MOST_SECONDS: Final = 2.0


def record_of(rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build a record of three arms and two rules whose answers are as long as those of the example."""
    ids = [f"r{place:05d}" for place in range(rows)]
    expected = [
        json.dumps({"priority": LABELS[n % 4], "reason": f"reason number {n} of this ticket"})
        for n in range(rows)
    ]
    held_out = [
        {
            "id": row,
            "line": n + 1,
            "file": "eval/check.jsonl",
            "expected": expected[n],
            "tags": ["borderline"] * (n % 5 == 0),
            "input": f"Customer {n % 97} cannot export the report since today; ticket {4000 + n}, no way around.",
        }
        for n, row in enumerate(ids)
    ]
    right = {
        "baseline": [int(n % 3 == 0) for n in range(rows)],
        "prompted": [int(n % 2) for n in range(rows)],
        "tuned": [int(n % 10 != 7) for n in range(rows)],
    }
    message = "assert 'low' == 'high'\n  - high\n  + low"
    rule = {
        "primary": True,
        "outcome": "passed",
        "rows": ids,
        "scores": right,
        "min_gain": 0.1,
        "messages": {
            arm: {row: message for row, ok in zip(ids, oks, strict=True) if not ok}
            for arm, oks in right.items()
        },
    }
    strict = {**rule, "primary": False, "min_gain": None, "min_rate": 0.95}
    arms = {
        arm: {
            "runtime": "transformers",
            "outputs": None,
            "rules": {
                "priority": {"passed": sum(oks), "total": rows, "rate": sum(oks) / rows, "interval": None}
            },
        }
        for arm, oks in right.items()
    }
    pairs = [
        {
            "rule": "priority",
            "against": arm,
            "gain": 0.4,
            "interval": [0.3, 0.5],
            "p_value": 1e-9,
            "verdict": "beats",
            "fixed": [
                row for row, was, now in zip(ids, right[arm], right["tuned"], strict=True) if now > was
            ],
            "broken": [
                row for row, was, now in zip(ids, right[arm], right["tuned"], strict=True) if now < was
            ],
        }
        for arm in ("baseline", "prompted")
    ]
    decision = {"verdict": "keep", "keep": True, "reasons": ["measured, not judged"]}
    run = {
        "name": "finetune",
        "held_out": held_out,
        "rules": {"priority": rule, "strict_json": strict},
        "arms": arms,
        "comparisons": pairs,
        "decision": decision,
    }
    answers = {
        arm: [
            {
                "id": row,
                "line": n + 1,
                "prompt": held_out[n]["input"],
                "stopped": True,
                "response": expected[n]
                if oks[n]
                else expected[n].replace(LABELS[n % 4], LABELS[(n + 1) % 4]),
            }
            for n, row in enumerate(ids)
        ]
        for arm, oks in right.items()
    }
    return {"experiments": [run]}, {"finetune": answers}


def main() -> int:
    """Print size and times; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    record, answers = record_of(asked.rows)
    begun = time.process_time()
    fragment = summary_html(record, answers)
    rendered = time.process_time() - begun
    source = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>page</title><body>{fragment}'
    size = len(source.encode())
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page = Path(folder) / "page.html"
        page.write_text(source, encoding="utf-8")
        opened = []
        for _ in range(asked.runs):
            tab = browser.open(page)
            opened.append(tab.evaluate(PAINTED) / 1000)
            tab.close()
    print(f"{asked.rows:,} held-out rows, 3 arms, 2 rules")
    print(f"  rendered in     {rendered:6.2f} s of processor time")
    print(f"  size            {size / 1e6:6.2f} MB (promised: under {MOST_BYTES / 1e6:.0f})")
    middle, worst = statistics.median(opened), max(opened)
    print(
        f"  opened, painted {middle:6.2f} s (promised: under {MOST_SECONDS:.0f}); {asked.runs} runs, worst {worst:.2f}"
    )
    return int(size >= MOST_BYTES or middle >= MOST_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
