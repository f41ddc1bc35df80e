"""Time the memory plan of a 7B QLoRA run: traced anew in a process of its own, and read back from the store.

python benchmarks/memory_plan.py [--tokens 2048] [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

LLAMA_2_7B: Final[dict[str, Any]] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EXPERIMENT: Final = """
base_model: model
peft_method: qlora
lora: {{r: 16}}
training: {{max_seq_length: {tokens}, gradient_checkpointing: true}}
paths: {{train_file: train.jsonl, eval_file: eval.jsonl}}
"""
READ_BACK: Final = """
import sys, time
begun = time.perf_counter()
from pathlib import Path
from pytest_finetune.experiment import load_experiment
from pytest_finetune.memory.plan.plan import plan_memory
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.store import Store
experiment = load_experiment(Path(sys.argv[1]), "finetune.yaml")
loaded = time.perf_counter()
plan = plan_memory(experiment, None, Planner(Store(Path(sys.argv[2]))))
print(time.perf_counter() - loaded, "torch" in sys.modules)
"""


def project(folder: Path, tokens: int) -> None:
    """Write a project whose base model is a configuration and nothing else."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(LLAMA_2_7B))
    (folder / "finetune.yaml").write_text(EXPERIMENT.format(tokens=tokens))
    for name in ("train.jsonl", "eval.jsonl"):
        (folder / name).touch()


class Traced(NamedTuple):
    """One trace in a fresh process: its seconds by the clock and of processor time, and its peak RAM."""

    wall_s: float
    cpu_s: float
    peak_gib: float
    figures: dict[str, Any]


def traced(tokens: int) -> Traced:
    """Trace in a fresh process."""
    from pytest_finetune.memory.plan.planner import WORKSPACES
    from pytest_finetune.memory.plan.workload import Adapter, Workload

    workload = Workload(
        config=LLAMA_2_7B,
        tokens=tokens,
        quantization="nf4",
        adapter=Adapter(rank=16, dtype="bfloat16"),
        checkpointing=True,
    )
    request = {"base": None, "ladders": [[workload.as_json()]], "limit": None, "workspaces": WORKSPACES}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_finetune.memory.tracer.ladders"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode())
    process.stdin.close()
    _, (answer,) = [json.loads(line) for line in process.stdout]
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    cpu_s = usage.ru_utime + usage.ru_stime
    return Traced(time.perf_counter() - begun, cpu_s, usage.ru_maxrss / 1024**2, answer["figures"])


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = [traced(options.tokens) for _ in range(options.runs)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, options.tokens)
        command = [sys.executable, "-c", READ_BACK, str(folder), str(folder / "store")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        answers = [
            subprocess.run(
                command, check=True, capture_output=True, text=True, env=environment
            ).stdout.split()
            for _ in range(options.runs + 1)
        ]
    stored = [float(seconds) for seconds, _ in answers[1:]]
    assert all(torch == "False" for _, torch in answers), "a plan imported torch"
    layers = runs[0].figures["traced_layers"]
    print(f"7B QLoRA, {options.tokens} tokens, {layers} of {runs[0].figures['layers']} layers traced")
    print(f"  traced, whole process   {_median([run.wall_s for run in runs]):6.2f} s   (to reach: 8 s)")
    print(f"  its processor time      {_median([run.cpu_s for run in runs]):6.2f} s")
    print(f"  its peak RAM            {max(run.peak_gib for run in runs):6.2f} GiB (to reach: 1.5 GiB)")
    print(f"  read from the store     {_median(stored):6.3f} s   (to reach: 0.2 s, without torch)")


if __name__ == "__main__":
    main()
