"""Measure the data contract: all checks but tokens, a plain jsonschema loop, naive pairwise leakage.

    python benchmarks/data_contract.py                       # 1,000,000 x 5,000 rows
    python benchmarks/data_contract.py --rows 50000 --growth 2

The columns: rows, wall time, processor time, processor time a row, peak memory, findings (there are none). Rows
are generated from a seed; each size is measured in a process of its own, so that peak memory is its own.
The plain loop and the pairwise check are measured on a part and scaled (the part is printed).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows

INSTRUCTION = "Classify the support ticket priority and return strict JSON."
CONTRACT = """\
instruction: Classify the support ticket priority and return strict JSON.
output:
  schema:
    type: object
    required: [priority, reason]
    additionalProperties: false
    properties:
      priority: {enum: [critical, high, medium, low]}
      reason: {type: string, minLength: 1}
labels: {field: priority, min_per_label: 100, max_share: 0.6}
tags: {eval: {borderline: 2}}
out_of_scope_patterns: ["(?i)according to the (handbook|policy)"]
"""
SYLLABLES = [
    "ba",
    "co",
    "de",
    "fi",
    "gu",
    "ha",
    "jo",
    "ke",
    "li",
    "mo",
    "nu",
    "pa",
    "ro",
    "se",
    "ti",
    "vu",
    "wa",
    "ze",
    "cha",
    "dro",
    "fle",
    "gri",
    "sta",
    "tre",
]


def ticket(rng: random.Random, vocabulary: list[str]) -> str:
    """Return a sentence of 8 to 30 words, frequent words far more often than rare ones."""
    size = rng.randint(8, 30)
    words = [vocabulary[int(len(vocabulary) ** rng.random()) - 1] for _ in range(size)]
    if rng.random() < 0.3:
        words[rng.randrange(size)] = str(rng.randrange(10_000))
    return " ".join(words).capitalize() + "."


def rows(count: int, seed: int, key: str) -> Iterator[str]:
    """Yield `count` JSON lines."""
    rng = random.Random(seed)
    words = random.Random(1)
    vocabulary = ["".join(words.choices(SYLLABLES, k=words.randint(1, 4))) for _ in range(20_000)]
    for _ in range(count):
        label = rng.choice(("critical", "high", "medium", "low"))
        answer = json.dumps({"priority": label, "reason": ticket(rng, vocabulary)[:60]})
        row: dict[str, Any] = {"instruction": INSTRUCTION, "input": ticket(rng, vocabulary), key: answer}
        if key == "expected" and rng.random() < 0.2:
            row["tags"] = ["borderline"]
        yield json.dumps(row)


def make(root: Path, train: int, held_out: int) -> None:
    """Write the contract and both files."""
    (root / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    for name, count, seed, key in (("train", train, 2, "output"), ("eval", held_out, 3, "expected")):
        with (root / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in rows(count, seed, key))


def measure(root: Path) -> dict[str, Any]:
    """Read both files and run every check, each timed; memory is the peak of this process."""
    from pytest_finetune.data.checks import BUILT_IN
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import read_rows

    begin = time.perf_counter()
    contract = Contract.load(root, "contract.yaml")
    train, held_out = read_rows(root, "train.jsonl", "train"), read_rows(root, "eval.jsonl", "eval")
    seconds = {"read_rows": time.perf_counter() - begin}
    found = 0
    for check in BUILT_IN:
        start = time.perf_counter()
        found += sum(1 for _ in check(contract, train, held_out))
        seconds[check.__name__] = time.perf_counter() - start
    total = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": len(train),
        "seconds": seconds,
        "total": total,
        "cpu": time.process_time(),
        "peak_bytes": peak,
        "findings": found,
    }


def first_rows(root: Path, name: str, split: str, limit: int) -> Rows:
    """Read the first rows of a file: millions of rows in memory would slow the loops that are compared."""
    from pytest_finetune.data.rows import Row, Rows, stream_rows

    part = [row for row in islice(stream_rows(root, name), limit) if isinstance(row, Row)]
    return Rows(part, path=name, split=split)


def plain_loop(root: Path, limit: int) -> dict[str, float]:
    """Time json.loads and a reused jsonschema validator, and our check of the same rows; the best of three."""
    from jsonschema import Draft202012Validator

    from pytest_finetune.data.checks.outputs import check_outputs
    from pytest_finetune.data.contract import Contract

    contract = Contract.load(root, "contract.yaml")
    part, none = first_rows(root, "train.jsonl", "train", limit), first_rows(root, "eval.jsonl", "eval", 0)
    validator = Draft202012Validator(dict(contract.schema))  # type: ignore[arg-type]

    def plain() -> int:
        return sum(1 for row in part for _ in validator.iter_errors(json.loads(row.output)))

    def ours() -> int:
        return sum(1 for _ in check_outputs(contract, part, none))

    assert plain() == ours() == 0
    return {"rows": len(part), "plain": best_of_three(plain), "ours": best_of_three(ours)}


def best_of_three(work: Callable[[], object]) -> float:
    """Return the shortest wall time in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def pairwise(root: Path, held_out_limit: int, train_limit: int) -> dict[str, float]:
    """Time the naive leakage check: every held-out row against every training row, sets of word 3-grams."""
    from pytest_finetune.data.words import jaccard, shingles, words_of

    train = first_rows(root, "train.jsonl", "train", train_limit)
    held_out = first_rows(root, "eval.jsonl", "eval", held_out_limit)
    sets = [shingles(words_of(row.input), 3) for row in train]
    start = time.perf_counter()
    for row in held_out:
        own = shingles(words_of(row.input), 3)
        for other in sets:
            jaccard(own, other)
    return {"pairs": len(sets) * len(held_out), "seconds": time.perf_counter() - start}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=5_000)
    parser.add_argument("--growth", type=int, default=4, help="how many sizes, each half of the next")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(f"{'rows':>9}  {'total':>7}  {'CPU':>7}  {'us/row':>6}  {'peak':>9}  findings")
    for step in reversed(range(options.growth)):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), options.rows >> step, options.held_out)
            run = [sys.executable, __file__, "--measure", folder]
            result = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            total, cpu = result["total"], result["cpu"]
            microseconds = cpu / result["rows"] * 1e6
            peak = result["peak_bytes"] / 2**20
            figures = (
                f"{total:6.1f}s  {cpu:6.1f}s  {microseconds:6.1f}  {peak:5.0f} MiB  {result['findings']}"
            )
            print(f"{result['rows']:>9,}  {figures}")
            if step == 0:
                compare(Path(folder), result)


def compare(root: Path, result: dict[str, Any]) -> None:
    """Print where the time goes, and the two naive ways."""
    for name, seconds in result["seconds"].items():
        print(f"           {name:<15} {seconds:6.1f}s")
    loop = plain_loop(root, 50_000)
    plain, ours = loop["plain"], loop["ours"]
    print(f"validation of {loop['rows']:,} answers: plain jsonschema loop {plain:.2f}s, ours {ours:.2f}s")
    print(f"  {plain / ours:.1f} times")
    naive = pairwise(root, 20, 20_000)
    whole = naive["seconds"] / naive["pairs"] * result["rows"] * 5_000
    print(
        f"leakage, every pair: {naive['seconds']:.2f}s for {naive['pairs']:,}: {whole / 3600:.1f} h for all"
    )


if __name__ == "__main__":
    main()
