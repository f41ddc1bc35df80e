"""Kill a training with `kill -9` at random moments, then run it again: what is served, what is left behind?

    python benchmarks/kill_minus_nine.py                       # 100 kills, about 15 minutes on two busy cores
    python benchmarks/kill_minus_nine.py --rounds 4 --seed 3   # the small version that the tests run

Each round kills one training of a tiny Llama (TRL and PEFT, a checkpoint after every second step) that goes through
the store as a session does: read, lock, read again, train, commit. Even rounds are killed at any moment of the run,
odd ones between the last step and the end, where files are written, checked and renamed. Then another process reads
what there is (nothing, or the right adapter), and a third runs to the end: same digest, no temporary folder, no lock,
no checkpoint, nothing set aside. Every run is a process of its own, forked from one that has imported the libraries
and nothing else, so that the moments fall into the training and not into imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_finetune.training.request import Progress, TrainingRequest

KEY = "a" * 64
STEPS = 12
LIMIT_S = 120.0

Say = Callable[..., None]


@dataclass(frozen=True)
class World:
    """Where everything lies; a child process gets a copy of it with its memory."""

    base: Path
    store: Path
    log: Path


def main() -> int:
    """Run the rounds, print the table, and return 1 when anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, help="how many kills")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no round after this time")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-minus-nine-"))
    try:
        world = World(folder / "base", folder / "store", folder / "log")
        print("importing the libraries ...", flush=True)
        build_base(world.base)
        import_all()
        return rounds(world, args.rounds, args.seconds, random.Random(args.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rounds(world: World, count: int, seconds: float, chance: random.Random) -> int:
    """Kill and run again, `count` times or until the time is over."""
    started = time.monotonic()
    first = finish(world)
    whole_s, tail_s = first["seconds"], first["tail_s"]
    print(
        f"undisturbed: {whole_s:.2f} s, {tail_s * 1000:.0f} ms of it after the last step; {first['digest'][:16]}"
    )
    faults: list[str] = []
    hits: Counter[str] = Counter()
    resumed: Counter[str] = Counter()
    done = 0
    while done < count and time.monotonic() - started < seconds:
        clear(world)
        aimed = done % 2 == 1
        where = kill_one(world, chance, whole_s, tail_s if aimed else None)
        if where is None:
            continue  # it was through before the blow fell
        done += 1
        hits[where] += 1
        served = spawn(world, read_only).result()
        if served["digest"] not in (None, first["digest"]):
            faults.append(f"round {done}: another adapter was served: {served['digest']}")
        after = finish(world)
        resumed[after["how"]] += 1
        if after["digest"] != first["digest"]:
            faults.append(f"round {done} ({where}): ended with {after['digest'][:16]}")
        faults += [
            f"round {done} ({where}): {what}" for what in [*after["warnings"], *left_behind(world.store)]
        ]
        if done % 10 == 0:
            print(f"  {done} kills, {len(faults)} faults, {time.monotonic() - started:.0f} s", flush=True)
    report(hits, resumed, done, faults, time.monotonic() - started)
    return 1 if faults or done < count else 0


def report(
    hits: Mapping[str, int], resumed: Mapping[str, int], done: int, faults: list[str], seconds: float
) -> None:
    """Print what was hit, how the following runs went on, and every fault."""
    print(f"\n{'killed':44s}{'times':>6s}")
    for where, times in sorted(hits.items()):
        print(f"{where:44s}{times:6d}")
    print(f"\n{'the following run':44s}{'times':>6s}")
    for how, times in sorted(resumed.items()):
        print(f"{how:44s}{times:6d}")
    print(f"\n{done} kills in {seconds:.0f} s; {len(faults)} faults")
    for fault in faults:
        print(f"  {fault}")


def kill_one(world: World, chance: random.Random, whole_s: float, tail_s: float | None) -> str | None:
    """Start a run and kill it; return where it was hit, None when it had ended before."""
    run = spawn(world, train)
    if tail_s is None:
        time.sleep(chance.uniform(0.0, whole_s))
    else:
        run.wait_for("last step")
        time.sleep(chance.uniform(0.0, tail_s))
    return where_it_stands(world.store) if run.kill() else None


def where_it_stands(store: Path) -> str:
    """Describe what a killed run has left."""
    if (store / "adapters" / KEY).is_dir():
        return "4 after the commit"
    parts = list(store.glob("tmp-*"))
    if any((part / "adapter_model.safetensors").exists() for part in parts):
        return "3 while the entry was written"
    if any((store / "checkpoints" / KEY).glob("checkpoint-*")):
        return "2 in the training, after a checkpoint"
    return "1 before the first checkpoint" if parts else "0 before the lock"


def left_behind(store: Path) -> list[str]:
    """Name everything in the store that is not the entry."""
    places = ("tmp-*", ".tmp-*", "locks/*", "checkpoints/*", "set-aside/*")
    found = [path for place in places for path in store.glob(place)]
    return [f"left behind: {path.relative_to(store)}" for path in found]


def clear(world: World) -> None:
    """Remove the entry as a user would, through a collection."""
    from pytest_finetune.store import Store, collect

    store = Store(world.store)
    if store.root.exists():
        collect(store, max_bytes=0)
    assert store.read("adapters", KEY) is None


def finish(world: World) -> dict[str, Any]:
    """Run to the end in a process of its own and return what it said."""
    return spawn(world, train).result()


def train(world: World, say: Say) -> None:
    """Do what a session does with its adapter, and say what came of it."""
    from pytest_finetune.fingerprint import adapter_digest
    from pytest_finetune.store import Store

    started = time.monotonic()
    about: dict[str, Any] = {}
    store = Store(world.store)
    last_step = [started]
    entry, how = store.read("adapters", KEY), "found the adapter"
    if entry is None:
        with store.lock("adapters", KEY, lambda text: None):
            entry = store.read("adapters", KEY)
            if entry is None:
                entry = store.commit(
                    "adapters", KEY, lambda part: fill(world, part, store, about, last_step, say), about
                )
                at = about["resumed_from"]
                how = "trained from the start" if at is None else "went on from a checkpoint"
    ended = time.monotonic()
    say(
        digest=adapter_digest(entry.path), how=how, warnings=store.warnings, seconds=ended - started,
        tail_s=ended - last_step[0],
    )  # fmt: skip


def fill(
    world: World, part: Path, store: Any, about: dict[str, Any], last_step: list[float], say: Say
) -> None:
    """Train into the store's folder."""
    from pytest_finetune.training.sft import train as sft

    def hear(progress: Progress) -> None:
        if progress.step == progress.steps:
            last_step[0] = time.monotonic()
            say(event="last step")

    result = sft(request(world, part, store.checkpoints(KEY), hear))
    about.update(steps=result.steps, resumed_from=result.resumed_from)


def read_only(world: World, say: Say) -> None:
    """Read as another process would, right after the kill."""
    from pytest_finetune.fingerprint import adapter_digest
    from pytest_finetune.store import Store

    entry = Store(world.store).read("adapters", KEY)
    say(digest=None if entry is None else adapter_digest(entry.path))


class Run:
    """A forked process and the pipe that it speaks through, one JSON object a line."""

    def __init__(self, pid: int, pipe: int, log: Path) -> None:
        self._pid = pid
        self._pipe = pipe
        self._log = log
        self._heard = b""

    def wait_for(self, event: str) -> None:
        """Read on until this event, or until the process ends."""
        while (line := self._line()) is not None and line.get("event") != event:
            pass

    def result(self) -> dict[str, Any]:
        """Return the last thing that the process said, when it has ended well."""
        last: dict[str, Any] = {}
        while (line := self._line()) is not None:
            last = line
        status = self._end()
        if status != 0 or "digest" not in last:
            raise SystemExit(f"a run ended with status {status}:\n{self._log.read_text()}")
        return last

    def kill(self) -> bool:
        """Kill it; return whether it was still alive."""
        os.kill(self._pid, signal.SIGKILL)
        return self._end() == -signal.SIGKILL

    def _line(self) -> dict[str, Any] | None:
        while b"\n" not in self._heard:
            if not select.select([self._pipe], [], [], LIMIT_S)[0]:
                self.kill()
                raise SystemExit(f"a run said nothing for {LIMIT_S:.0f} s:\n{self._log.read_text()}")
            more = os.read(self._pipe, 65536)
            if not more:
                return None
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _end(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(status)


def spawn(world: World, job: Callable[[World, Say], None]) -> Run:
    """Fork a process that does the job; its output goes to the log."""
    inner, outer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(outer)
        return Run(pid, inner, world.log)
    status = 1
    try:
        os.close(inner)
        log = os.open(world.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)

        def say(**line: Any) -> None:
            os.write(outer, json.dumps(line).encode() + b"\n")

        job(world, say)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def import_all() -> None:
    """Import what a training needs, and run nothing: a fork must not inherit threads."""
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import peft  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    from pytest_finetune import store  # noqa: F401
    from pytest_finetune.training import adapter, arguments, model, sft, trainer  # noqa: F401


def request(world: World, part: Path, checkpoints: Path, hear: Callable[[Progress], None]) -> TrainingRequest:
    """Ask for a training of a few steps with dropout and a checkpoint after every second one."""
    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.experiment import Lora, Paths, Training
    from pytest_finetune.training.request import TrainingRequest

    pairs = tuple(Pair(prompt, completion) for prompt, completion in sums())
    training = Training(
        max_seq_length=128, per_device_train_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-2,
        max_steps=STEPS, save_total_limit=2, sft={"save_steps": 2},
    )  # fmt: skip
    experiment = build_experiment(
        Lora(r=4, alpha=8, dropout=0.3), training, Paths("train.jsonl", "eval.jsonl")
    )
    places = tuple(f"train.jsonl:{number}" for number in range(1, len(pairs) + 1))
    return TrainingRequest(experiment, pairs, places, str(world.base), part, checkpoints, progress=hear)


def build_experiment(lora: Any, training: Any, paths: Any) -> Any:
    """Return an experiment as the file would give it."""
    import dataclasses

    from pytest_finetune import experiment as room

    return room.Experiment(
        name="kill", file="kill.yaml", root=Path("/nowhere"), task="sums", base_model="base", revision=None,
        trust_remote_code=False, peft_method="lora", quantization="none", lora=lora, training=training,
        prompt=room.Prompt(), generation=room.Generation(), runtimes=("transformers",), paths=paths,
        decision=room.DecisionDefaults(), charter=room.CharterText(), overrides={},
        resolved={"lora": dataclasses.asdict(lora), "training": dataclasses.asdict(training)},
    )  # fmt: skip


def sums() -> list[tuple[str, str]]:
    """Rows to learn: sums of two digits."""
    return [(f"Input: {i // 8} and {i % 8}\nAnswer:", f' {{"sum": {i // 8 + i % 8}}}') for i in range(24)]


def build_base(folder: Path) -> None:
    """Save a random Llama of 0.1 million parameters and a tokenizer trained on the rows."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    texts = [prompt + completion for prompt, completion in sums()]
    trained.train_from_iterator(
        texts, vocab_size=400, min_frequency=1, special_tokens=["<pad>", "<s>", "</s>"]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
