"""Compare the traced plan with memory that was really measured, row by row; fail where it is less exact than promised.

python benchmarks/memory_accuracy.py --measured peaks.csv --shapes shapes.json [--l40s peaks_l40s.csv]
    [--unseen peaks.csv --unseen-shapes shapes.json] [--json OUT]

`--measured` holds peaks of one LoRA or QLoRA step on a Tesla T4 (fitcheck-llm 0.3.1, MIT): two warm-up
steps, then one plain step, ``model(input_ids, labels).loss.backward()``, in which the output lives until
the optimizer has stepped; float16 base, float32 adapters (alpha 2r), torch AdamW, gradient checkpointing
without reentrance; `kernel` flash is the memory-efficient SDPA kernel with keys and values repeated for all
heads, eager is eager attention; nf4 without double quantisation after `prepare_model_for_kbit_training`.
Exactly that is traced here. Nothing is fitted to a row or a model. `--unseen` holds further rows of that kind, which
were not looked at when the trace was written.

`--shapes` maps a model's name to its shape. Whether the attention projections carry biases (Qwen2) is read
off its parameter count.

Where a base was quantised while four threads read ahead, how many weights lay on the card in 16 bits at a time is a
race between the disk and the card, and what the allocator keeps of it is there until the end. Such a row is replayed at
every pace of the thread that quantises, from one that keeps up with the readers to one that begins when all of them are
done: the estimate is the larger of two paces, the interval holds them all. The two paces are then chosen on all models
but one and tried on that one, each in turn.

`--l40s` holds what was reserved after each step of PEFT's MetaMathQA runs: the most of it, and the 99th percentile. The
length of the batches is not published, and all runs read the same: the length at which plain LoRA of rank 32 comes out
is the one number that is taken from the data, once for each of the two.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.measured_steps import emptied, metamath, read_rows, workload_of
from pytest_finetune.fingerprint import package_versions
from pytest_finetune.memory.hardware.cards import ADA, TURING
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.memory.tracer.allocator import Replay, replay
from pytest_finetune.memory.tracer.events import Timeline
from pytest_finetune.memory.tracer.variants import PACES, RACES, variants

IDENTITY: Final = (
    "model",
    "kernel",
    "quantization",
    "batch_size",
    "seq_len",
    "lora_rank",
    "lora_targets",
    "stack",
)
NUMBERS: Final = ("batch_size", "seq_len", "lora_rank")
CHOICE: Final = tuple(int(pace * MiB) for pace in (0.25, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10))
LENGTHS: Final = range(512, 769)
LENGTH_FROM: Final = "lora--llama-3.2-3B-rank32"


@dataclass(frozen=True, slots=True)
class Errors:
    """One row with its signed errors as fractions; None where the row has no measurement.

    `upper` is the error of the process at the upper end of the interval, `paces` that of the reserved bytes at each
    pace of a race.
    """

    row: Mapping[str, Any]
    allocated: float | None = None
    reserved: float | None = None
    process: float | None = None
    upper: float | None = None
    formula: float | None = None
    paces: Mapping[int, float] = field(default_factory=dict)
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row's identity and its errors."""
        names = ("allocated", "reserved", "process", "upper", "formula")
        errors = {f"{name}_error": getattr(self, name) for name in names}
        tree = {**self.row, **errors}
        return tree if self.problem is None else {**tree, "problem": self.problem}


class Promise(NamedTuple):
    """What has to hold: in words, the figure, and the bound that it is not to leave."""

    words: str
    figure: float
    bound: float

    def holds(self) -> bool:
        """Tell whether the figure is on the right side: under a positive bound, over a negative one."""
        return self.figure <= self.bound if self.bound > 0 else self.figure >= self.bound


@lru_cache(maxsize=2)
def traced(workload: Workload) -> Timeline:
    """Trace a workload; the next row is often of the same."""
    from pytest_finetune.memory.tracer.trace import trace

    return trace(workload).events


def replays(workload: Workload, workspace: int, paces: Sequence[int] = PACES) -> list[Replay]:
    """Replay a workload as it was loaded, at each of `paces` where that was a race."""
    return [replay(one) for one in variants(traced(workload), workload.loading, workspace, paces)]


def compare(rows: Iterable[Mapping[str, str]], shapes: Mapping[str, Any]) -> Iterator[Errors]:
    """Yield the errors of each row, printing it as it is done."""
    print(
        f"{'model':<26}{'kernel':<7}{'quant':<6}{'shape':<9}{'allocated':>10}{'reserved':>10}{'process':>9}"
        f"{'upper end':>11}{'formula':>9}"
    )
    for row in rows:
        identity: dict[str, Any] = {
            name: _number(row[name]) if name in NUMBERS else row[name] for name in IDENTITY if name in row
        }
        try:
            errors = _errors(row, identity, shapes)
        except (
            Exception
        ) as error:  # a row that cannot be planned is told, and the others are measured all the same
            print(f"not planned: {identity}: {type(error).__name__}: {error}", flush=True)
            yield Errors(identity, problem=f"{type(error).__name__}: {error}")
            continue
        shape = f"{row['batch_size']}x{row['seq_len']}"
        name = row["model"].rpartition("/")[2][:25]
        print(
            f"{name:<26}{row['kernel']:<7}{row['quantization']:<6}{shape:<9}{_percent(errors.allocated):>10}"
            f"{_percent(errors.reserved):>10}{_percent(errors.process):>9}{_percent(errors.upper):>11}"
            f"{_percent(errors.formula):>9}",
            flush=True,
        )
        yield errors


def _errors(row: Mapping[str, str], identity: Mapping[str, Any], shapes: Mapping[str, Any]) -> Errors:
    workload = workload_of(row, shapes)
    raced = workload.loading == "threaded"
    paces = sorted({*CHOICE, *RACES, *PACES}) if raced else PACES
    found = replays(workload, TURING.cublas_bytes, paces)
    at = dict(zip(paces, found, strict=True)) if raced else {}
    estimate = [at[pace] for pace in PACES] if raced else found
    reserved = max(one.reserved for one in estimate)
    upper = max(one.reserved for one in ([at[pace] for pace in RACES] if raced else found))
    measured = row.get("process_mib")
    return Errors(
        identity,
        allocated=_error(max(one.allocated for one in estimate), row.get("peak_allocated_mib")),
        reserved=_error(reserved, row.get("peak_reserved_mib")),
        process=_error(reserved + TURING.context_bytes, measured),
        upper=_error(upper + TURING.context_bytes, measured),
        formula=_error(float(row.get("fitcheck_total_mib") or "nan") * MiB, measured),
        paces={
            pace: error
            for pace, one in at.items()
            if (error := _error(one.reserved, row.get("peak_reserved_mib"))) is not None
        },
    )


def summarise(errors: Sequence[Errors]) -> None:
    """Print the largest and the mean absolute error of each column, and how many rows could not be planned."""
    if left_out := sum(error.problem is not None for error in errors):
        print(f"{left_out} of {len(errors)} rows could not be planned")
    for name in ("allocated", "reserved", "process", "upper", "formula"):
        if values := _values(errors, name):
            print(
                f"{name:<10} max {max(map(abs, values)):6.2%}   mean {_mean(values):6.2%}   "
                f"lowest {min(values):+7.2%}   highest {max(values):+7.2%}   ({len(values)} rows)"
            )


def without_one_model(errors: Sequence[Errors]) -> list[float]:
    """Choose two paces on all models but one, by their largest error, and try them on that one; print each."""
    raced = [error for error in errors if error.paces]
    tried: list[float] = []
    models = sorted({str(error.row["model"]) for error in raced})
    if len(models) < 2:
        return tried
    print(f"\n{'left out':<26}{'paces, MiB':<14}{'lowest':>8}{'highest':>8}")
    for model in models:
        others = [error for error in raced if error.row["model"] != model]
        chosen = min(
            itertools.combinations(CHOICE, 2),
            key=lambda paces: max(abs(_at(error, paces)) for error in others),
        )
        found = [_at(error, chosen) for error in raced if error.row["model"] == model]
        words = " and ".join(f"{pace / MiB:g}" for pace in chosen)
        name = model.rpartition("/")[2][:25]
        print(f"{name:<26}{words:<14}{min(found):>+8.1%}{max(found):>+8.1%}", flush=True)
        tried += found
    return tried


def compare_l40s(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Compare reserved bytes of PEFT's own runs: batch 4, no checkpointing, padded batches, the plain step."""
    (plain,) = (row for row in rows if row["experiment"] == LENGTH_FROM)
    found = []
    for share in ("max", "p99"):
        tokens = _length(plain, share)
        print(f"\n{share}: {tokens} tokens, at which {LENGTH_FROM} comes out")
        print(f"{'run':<48}{'measured GB':>12}{'predicted':>11}{'error':>9}")
        for row in rows:
            reserved, measured = _l40s_reserved(row, tokens), _l40s_measured(row, share)
            error = reserved / measured - 1
            print(
                f"{row['experiment'][:47]:<48}{measured / 1e9:>12.2f}{reserved / 1e9:>11.2f}{error:>+9.2%}",
                flush=True,
            )
            facts = {"experiment": row["experiment"], "peft": row["peft"], "share": share, "tokens": tokens}
            found.append({**facts, "reserved_error": error})
    return found


def _length(row: Mapping[str, str], share: str) -> int:
    """Return the shortest length of a batch that needs what was measured in a run."""
    shortest, longest = LENGTHS[0], LENGTHS[-1]
    while shortest < longest:
        middle = (shortest + longest) // 2
        if _l40s_reserved(row, middle) < _l40s_measured(row, share):
            shortest = middle + 1
        else:
            longest = middle
    return shortest


def _l40s_measured(row: Mapping[str, str], share: str) -> int:
    return int(row[f"reserved_{share}_bytes"])


def _l40s_reserved(row: Mapping[str, str], tokens: int) -> int:
    workload = metamath(row, tokens)
    (events,) = variants(traced(workload), workload.loading, ADA.cublas_bytes)
    return replay(emptied(events)).reserved


def promises(
    held: Sequence[Errors],
    unseen: Sequence[Errors],
    tried: Sequence[float],
    l40s: Sequence[Mapping[str, Any]],
) -> Iterator[Promise]:
    """Yield what the figures have to hold."""
    if process := _values(held, "process"):
        yield Promise("T4, process: largest error", max(map(abs, process)), 0.029)
        yield Promise("T4, process: mean error", _mean(process), 0.004)
    if upper := _values([*held, *unseen], "upper"):
        yield Promise("T4, upper end of the interval: lowest error", min(upper), -0.015)
    if allocated := _values([*held, *unseen], "allocated"):
        yield Promise("T4, allocated: largest error", max(map(abs, allocated)), 0.005)
    if tried:
        yield Promise("T4, paces chosen on the other models: largest error", max(map(abs, tried)), 0.02)
    bounds = {("max", True): 0.015, ("max", False): 0.01, ("p99", True): 0.025, ("p99", False): 0.02}
    for (share, full), bound in bounds.items():
        errors = [
            float(row["reserved_error"])
            for row in l40s
            if row["share"] == share and (row["peft"] == "full") == full
        ]
        if errors:
            kind = "full fine-tuning" if full else "adapters"
            yield Promise(f"L40S, reserved, {share}, {kind}: largest error", max(map(abs, errors)), bound)


def _at(error: Errors, paces: Sequence[int]) -> float:
    return max(error.paces[pace] for pace in paces)


def _values(errors: Iterable[Errors], name: str) -> list[float]:
    values = (getattr(error, name) for error in errors)
    return [value for value in values if value is not None and value == value]


def _mean(values: Sequence[float]) -> float:
    return sum(map(abs, values)) / len(values)


def _error(predicted: float, measured_mib: str | None) -> float | None:
    if not measured_mib or predicted != predicted:
        return None
    return predicted / (float(measured_mib) * MiB) - 1


def _number(cell: str) -> int | str:
    return int(cell) if cell.strip().isdigit() else cell


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def main() -> int:
    """Print the tables, write the JSON, and end with the number of promises that are not held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("measured", "shapes", "unseen", "unseen-shapes", "l40s", "json"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    for rows, shapes in (("measured", "shapes"), ("unseen", "unseen_shapes")):
        if (getattr(options, rows) is None) != (getattr(options, shapes) is None):
            parser.error(f"--{rows} needs --{shapes}, and --{shapes} --{rows}".replace("_", "-"))
    if options.measured is None and options.l40s is None:
        parser.error("nothing to compare with: give --measured and --shapes, or --l40s")
    warnings.simplefilter("ignore")
    print(", ".join(f"{name} {version}" for name, version in package_versions().items()), end="\n\n")
    held = _table(options.measured, options.shapes)
    tried = without_one_model(held)
    unseen = _table(options.unseen, options.unseen_shapes, "\nRows that the trace was not written with:")
    l40s = compare_l40s(read_rows(options.l40s)) if options.l40s is not None else []
    said = list(promises(held, unseen, tried, l40s))
    broken = sum(error.problem is not None for error in (*held, *unseen))
    print()
    for one in said:
        print(
            f"{'holds' if one.holds() else 'BROKEN':<7}{one.words}: {one.figure:+.2%}, bound {one.bound:+.1%}"
        )
        broken += not one.holds()
    if options.json is not None:
        tables = {"rows": held, "unseen": unseen}
        tree = {name: [error.as_json() for error in errors] for name, errors in tables.items()}
        options.json.write_text(json.dumps({**tree, "l40s": l40s}, indent=1) + "\n", encoding="utf-8")
    return broken


def _table(measured: Path | None, shapes: Path | None, title: str = "") -> list[Errors]:
    if measured is None or shapes is None:
        return []
    if title:
        print(title)
    errors = list(compare(read_rows(measured), json.loads(shapes.read_text(encoding="utf-8"))))
    summarise(errors)
    return errors


if __name__ == "__main__":
    sys.exit(main())
