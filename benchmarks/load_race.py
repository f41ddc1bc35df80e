"""How far the reserved memory of a 4-bit load depends on a race, and what can be said of it all the same.

python benchmarks/load_race.py --measured peaks.csv --shapes shapes.json

Releases of transformers that read with four threads while one quantises leave weights in 16 bits on the card: how
many at a time is a race between the disk and the card, and what the allocator keeps of it is there until the end. The
rows are those of `benchmarks/memory_accuracy.py` that were measured with such a release. Each is replayed at every
pace of the one that quantises, from one that keeps up with the readers to one that begins when all of them are done.
Printed are the errors of the estimate (the larger of two paces) and of both ends of the interval over all paces. Then
the two paces are chosen on all models but one and tried on that one, each in turn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.memory_accuracy import read_rows, workload_of
from pytest_finetune.memory.hardware.cards import TURING
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.allocator import replay
from pytest_finetune.memory.tracer.variants import PACES, RACES, variants

CHOICE: Final = tuple(int(pace * MiB) for pace in (0.25, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10))


class Raced(NamedTuple):
    """A measured row: its model, what it is, and the signed error of the reserved bytes at each pace."""

    model: str
    shape: str
    errors: Mapping[int, float]

    def estimate(self, paces: Sequence[int] = PACES) -> float:
        """Return the error of the larger figure of some paces."""
        return max(self.errors[pace] for pace in paces)


def raced(rows: Sequence[Mapping[str, str]], shapes: Mapping[str, Any]) -> Iterator[Raced]:
    """Replay every row that was loaded in a race, at every pace."""
    from pytest_finetune.memory.tracer.trace import trace

    paces = sorted({*CHOICE, *RACES, *PACES})
    for row in rows:
        workload = workload_of(row, shapes)
        if workload.loading != "threaded":
            continue
        timelines = variants(trace(workload).events, workload.loading, TURING.cublas_bytes, paces)
        measured = float(row["peak_reserved_mib"]) * MiB
        errors = [replay(timeline).reserved / measured - 1 for timeline in timelines]
        shape = f"{row['kernel']} {row['batch_size']}x{row['seq_len']}"
        yield Raced(row["model"].rpartition("/")[2], shape, dict(zip(paces, errors, strict=True)))


def left_out(rows: Sequence[Raced]) -> Iterator[str]:
    """Choose two paces on all models but one, by their largest error, and try them on that one."""
    for model in sorted({row.model for row in rows}):
        others = [row for row in rows if row.model != model]
        chosen = min(
            itertools.combinations(CHOICE, 2),
            key=lambda paces: max(abs(row.estimate(paces)) for row in others),
        )
        errors = [row.estimate(chosen) for row in rows if row.model == model]
        words = " and ".join(f"{pace / MiB:g}" for pace in chosen)
        yield f"{model:<26}{words:<14}{min(errors):>+8.1%}{max(errors):>+8.1%}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--shapes", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    shapes = json.loads(options.shapes.read_text(encoding="utf-8"))
    found = []
    print(f"{'model':<26}{'shape':<14}{'estimate':>9}{'lowest':>9}{'upper end':>11}")
    for row in raced(read_rows(options.measured), shapes):
        ends = [row.errors[pace] for pace in RACES]
        print(
            f"{row.model:<26}{row.shape:<14}{row.estimate():>+9.1%}{min(ends):>+9.1%}{max(ends):>+11.1%}",
            flush=True,
        )
        found.append(row)
    print(f"\nlowest upper end: {min(max(row.errors[pace] for pace in RACES) for row in found):+.1%}")
    print(f"\n{'left out':<26}{'paces, MiB':<14}{'lowest':>8}{'highest':>8}")
    print("\n".join(left_out(found)))


if __name__ == "__main__":
    main()
