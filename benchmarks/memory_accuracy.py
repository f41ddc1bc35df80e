"""Compare the traced plan with memory that was really measured, row by row.

python benchmarks/memory_accuracy.py --measured peaks.csv --shapes shapes.json [--json OUT] [--l40s
peaks_l40s.csv]

`--measured` holds peaks of one LoRA or QLoRA step on a Tesla T4 (fitcheck-llm 0.3.1, MIT): two warm-up
steps, then one plain step, ``model(input_ids, labels).loss.backward()``, in which the output lives until
the optimizer has stepped; float16 base, float32 adapters (alpha 2r), torch AdamW, gradient checkpointing
without reentrance; `kernel` flash is the memory-efficient SDPA kernel with keys and values repeated for all
heads, eager is eager attention; nf4 without double quantisation after `prepare_model_for_kbit_training`.
Exactly that is traced here. Nothing is fitted to a row or a model.

`--shapes` maps a model's name to its shape. Whether the attention projections carry biases (Qwen2) is read
off its parameter count.

`--l40s` holds `max_memory_reserved` of PEFT's MetaMathQA runs, where the length of the longest batch is not
published: `--l40s-tokens` (default 720, which fits plain LoRA of rank 32) is the one number that is taken
from the data there.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_finetune.memory.hardware.cards import ADA, TURING
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.plan.figures import Figures, Held
from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload

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
# What the measured stacks do that the installed libraries do not. transformers 5.0 computes the rotary embedding by a
# matrix product, and its rows come out to the MiB when the checkpoint is read tensor by tensor. The rows of the other
# stack vary from load to load, as they do when threads read ahead of the one that quantises.
OLD_STACK: Final = "torch 2.10.0+cu128, transformers 5.0.0, peft 0.19.1"
LLAMA_3B: Final[Mapping[str, Any]] = {
    "model_type": "llama",
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class Errors:
    """One row with its signed errors as fractions; None where the row has no measurement."""

    row: Mapping[str, Any]
    allocated: float | None
    reserved: float | None
    process: float | None
    formula: float | None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row's identity and its errors."""
        errors = {
            "allocated_error": self.allocated,
            "reserved_error": self.reserved,
            "process_error": self.process,
        }
        tree = {**self.row, **errors, "formula_error": self.formula}
        return tree if self.problem is None else {**tree, "problem": self.problem}


def read_rows(file: Path) -> list[dict[str, str]]:
    """Read the table of measurements."""
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def config_of(shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a shape.

    Llama's, or Qwen2's where the parameters include attention biases.
    """
    hidden, layers, inner = shape["hidden_size"], shape["num_layers"], shape["intermediate_size"]
    width = shape.get("head_dim") or hidden // shape["num_attention_heads"]
    queries, keys = shape["num_attention_heads"] * width, shape["num_kv_heads"] * width
    plain = shape["vocab_size"] * hidden * (1 if shape["tie_word_embeddings"] else 2) + hidden
    plain += layers * (2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden)
    biased = shape.get("num_params") == plain + layers * (queries + 2 * keys)
    return {
        "model_type": "qwen2" if biased else "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": shape["num_attention_heads"],
        "num_key_value_heads": shape["num_kv_heads"],
        "intermediate_size": inner,
        "vocab_size": shape["vocab_size"],
        "tie_word_embeddings": shape["tie_word_embeddings"],
        "max_position_embeddings": 8192,
        **({} if biased else {"head_dim": width}),
    }


def targets_of(cell: str) -> str | tuple[str, ...]:
    """Read ``q_proj v_proj``, ``q_proj,v_proj`` or ``all-linear``."""
    words = tuple(re.split(r"[\s,]+", cell.strip()))
    return words[0] if words == ("all-linear",) else words


def workload_of(row: Mapping[str, str], shapes: Mapping[str, Any]) -> Workload:
    """Return the step that was measured in a row."""
    quantized = row["quantization"] != "none"
    old = row.get("stack") == OLD_STACK
    return Workload(
        config=config_of(shapes[row["model"]]),
        tokens=int(row["seq_len"]),
        batch=int(row["batch_size"]),
        dtype="float16",
        autocast=None,
        quantization=row["quantization"],
        double_quant=False,
        adapter=Adapter(rank=int(row["lora_rank"]), targets=targets_of(row["lora_targets"])),
        checkpointing=True,
        attention="eager" if row["kernel"] == "eager" else "efficient",
        max_grad_norm=0.0,
        kbit_upcast=quantized,
        loading="moved" if not quantized else "streamed" if old else "threaded",
        rotary_product=old,
        keeps_output=True,
        step=PLAIN_STEP,
    )


class Tracer:
    """Traces each workload once, however many rows it has."""

    def __init__(self, workspace: int) -> None:
        self._workspace = workspace
        self._known: dict[str, Figures] = {}

    def held(self, workload: Workload) -> Held:
        """Return what the allocator holds."""
        from pytest_finetune.memory.tracer.ladders import figures

        key = json.dumps(workload.as_json(), sort_keys=True)
        if key not in self._known:
            self._known[key] = figures(workload, [self._workspace])
        return self._known[key].with_workspace(self._workspace)


def compare(rows: list[dict[str, str]], shapes: Mapping[str, Any]) -> Iterator[Errors]:
    """Yield the errors of each row, printing it as it is done."""
    print(
        f"{'model':<26}{'kernel':<7}{'quant':<6}{'shape':<9}{'allocated':>10}{'reserved':>10}{'process':>9}{'formula':>9}"
    )
    tracer = Tracer(TURING.cublas_bytes)
    for row in rows:
        identity: dict[str, Any] = {
            name: _number(row[name]) if name in NUMBERS else row[name] for name in IDENTITY if name in row
        }
        try:
            held = tracer.held(workload_of(row, shapes))
        except (
            Exception
        ) as error:  # a row that cannot be planned is told, and the others are measured all the same
            print(f"not planned: {identity}: {type(error).__name__}: {error}", flush=True)
            yield Errors(identity, None, None, None, None, problem=f"{type(error).__name__}: {error}")
            continue
        process = held.reserved + TURING.context_bytes
        errors = Errors(
            identity,
            _error(held.allocated, row.get("peak_allocated_mib")),
            _error(held.reserved, row.get("peak_reserved_mib")),
            _error(process, row.get("process_mib")),
            _error(float(row.get("fitcheck_total_mib") or "nan") * MiB, row.get("process_mib")),
        )
        shape = f"{row['batch_size']}x{row['seq_len']}"
        name = row["model"].rpartition("/")[2][:25]
        print(
            f"{name:<26}{row['kernel']:<7}{row['quantization']:<6}{shape:<9}{_percent(errors.allocated):>10}"
            f"{_percent(errors.reserved):>10}{_percent(errors.process):>9}{_percent(errors.formula):>9}",
            flush=True,
        )
        yield errors


def summarise(errors: list[Errors]) -> None:
    """Print the largest and the mean absolute error of each column, and how many rows could not be planned."""
    if left_out := sum(error.problem is not None for error in errors):
        print(f"{left_out} of {len(errors)} rows could not be planned")
    for name in ("allocated", "reserved", "process", "formula"):
        values = [value for error in errors if (value := getattr(error, name)) is not None and value == value]
        if values:
            mean = sum(map(abs, values)) / len(values)
            print(
                f"{name:<10} max {max(map(abs, values)):6.2%}   mean {mean:6.2%}   "
                f"lowest {min(values):+7.2%}   highest {max(values):+7.2%}   ({len(values)} rows)"
            )


def compare_l40s(rows: list[dict[str, str]], tokens: int) -> list[dict[str, Any]]:
    """Compare reserved bytes of PEFT's own runs: batch 4, no checkpointing, padded batches, the plain step."""
    workloads = []
    for row in rows:
        peft = None if row["peft"] == "full" else json.loads(row["peft"])
        adapter = None
        if peft is not None:
            targets = tuple(sorted(peft["target_modules"]))
            adapter = Adapter(rank=peft["r"], targets=targets, dora=bool(peft.get("use_dora")))
        workloads.append(
            Workload(
                config=LLAMA_3B,
                tokens=tokens,
                batch=int(row["batch_size"]),
                autocast=None,
                adapter=adapter,
                attention="efficient",
                masked=True,
                max_grad_norm=0.0,
                step=PLAIN_STEP,
            )
        )
    print(f"\n{'run':<48}{'measured GB':>12}{'predicted':>11}{'error':>9}")
    found = []
    tracer = Tracer(ADA.cublas_bytes)
    for row, workload in zip(rows, workloads, strict=True):
        reserved = tracer.held(workload).reserved
        measured = int(row["reserved_max_bytes"])
        error = reserved / measured - 1
        print(
            f"{row['experiment'][:47]:<48}{measured / 1e9:>12.2f}{reserved / 1e9:>11.2f}{error:>+9.2%}",
            flush=True,
        )
        found.append({"experiment": row["experiment"], "reserved_error": error})
    return found


def _error(predicted: float, measured_mib: str | None) -> float | None:
    if not measured_mib or predicted != predicted:
        return None
    return predicted / (float(measured_mib) * MiB) - 1


def _number(cell: str) -> int | str:
    return int(cell) if cell.strip().isdigit() else cell


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--shapes", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--l40s", type=Path)
    parser.add_argument("--l40s-tokens", type=int, default=720)
    options = parser.parse_args()
    if (options.measured is None) != (options.shapes is None):
        parser.error("--measured needs --shapes, and --shapes --measured")
    if options.measured is None and options.l40s is None:
        parser.error("nothing to compare with: give --measured and --shapes, or --l40s")
    warnings.simplefilter("ignore")
    tree: dict[str, Any] = {}
    if options.measured is not None:
        shapes = json.loads(options.shapes.read_text(encoding="utf-8"))
        errors = list(compare(read_rows(options.measured), shapes))
        summarise(errors)
        tree["rows"] = [error.as_json() for error in errors]
    if options.l40s is not None:
        tree["l40s"] = compare_l40s(read_rows(options.l40s), options.l40s_tokens)
    if options.json is not None:
        options.json.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
