"""Steps whose memory was measured on a card, from the tables that tell of them, as workloads to trace."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload
from pytest_finetune.memory.tracer.events import Emptied, Entered, Event

# What this stack does that the installed libraries do not: transformers 5.0 computes the rotary embedding by a matrix
# product. Its source reads with four threads, and what lies on the card after loading differs from load to load, as on
# the other stack. Ten rows were copied from a notebook, without what lay there after loading: they come out when the
# checkpoint is read tensor by tensor, eight of them to the MiB.
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
    in_turn = old and not row.get("after_load_allocated_mib")
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
        loading="moved" if not quantized else "streamed" if in_turn else "threaded",
        rotary_product=old,
        keeps_output=True,
        step=PLAIN_STEP,
    )


def metamath(row: Mapping[str, str], tokens: int) -> Workload:
    """Return the step of one of PEFT's MetaMathQA runs whose longest batch has `tokens` tokens a row.

    Its loop (method_comparison/MetaMathQA/run.py) refers to the model's output until the next one is there.
    """
    peft = None if row["peft"] == "full" else json.loads(row["peft"])
    adapter = None
    if peft is not None:
        targets = tuple(sorted(peft["target_modules"]))
        adapter = Adapter(rank=peft["r"], targets=targets, dora=bool(peft.get("use_dora")))
    return Workload(
        config=LLAMA_3B,
        tokens=tokens,
        batch=int(row["batch_size"]),
        autocast=None,
        adapter=adapter,
        attention="efficient",
        masked=True,
        max_grad_norm=0.0,
        keeps_output=True,
        step=PLAIN_STEP,
    )


def emptied(events: Iterable[Event]) -> Iterator[Event]:
    """Give the cache back after each optimizer step, while the gradients are still there, as those runs do.

    They sort each twenty batches from long to short and empty the cache after every tenth: a longest batch meets what
    the emptying has left, and not what a batch as long as itself has.
    """
    for event in events:
        if isinstance(event, Entered) and event.phase == "release":
            yield Emptied()
        yield event
