"""Show how far a project's tuned model answers alike as a GGUF file, and as an adapter beside its base.

python -m benchmarks.gguf [PROJECT]      # example_project when none is named; needs llama.cpp (make llama)
python -m benchmarks.gguf --record FILE  # the table of a run that was made before

Each file answers all held-out rows through llama-server. The results are kept in benchmarks/results/gguf.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RUNTIMES: Final = (
    "[transformers, {name: f16, gguf: f16}, {name: q8_0, gguf: q8_0}, {name: q4_k_m, gguf: q4_k_m}, "
    "{name: lora, gguf: f16, adapter: lora}]"
)
HEAD: Final = ("runtime", "size", "prompts alike", "texts alike", "scores alike", "right", "s a row")


def main(words: list[str]) -> int:
    """Run the project with the files beside transformers, or read a record, and print the table."""
    if words[:1] == ["--record"]:
        file = Path(words[1])
    else:
        project = Path(words[0]) if words else ROOT / "example_project"
        command = ["pytest", "--finetune", "--finetune-set", f"runtimes={RUNTIMES}"]
        subprocess.run([sys.executable, "-m", *command], cwd=project, check=False)
        file = project / "finetune-record" / "record.json"
    (experiment,) = json.loads(file.read_bytes())["experiments"]
    table = [HEAD, *rows(experiment)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def rows(experiment: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a line for the first runtime and one for each file."""
    primary = next(name for name, rule in experiment["rules"].items() if rule["primary"])
    tuned = experiment["arms"]["tuned"]
    yield ("transformers", "", "", "", "", right(tuned, primary), a_row(tuned))
    for match in experiment["runtime_match"]:
        arm = experiment["arms"][f"tuned@{match['second']}"]
        prompts = arm["rendering"]
        alike = prompts["rows"] - sum(found["rows"] for found in prompts["differences"])
        yield (
            match["second"],
            f"{arm['gguf']['bytes'] / 2**20:.1f} MiB",
            f"{alike} of {prompts['rows']}",
            of(match["text"]),
            of(match["rules"][primary]),
            right(arm, primary),
            a_row(arm),
        )


def of(found: dict[str, Any]) -> str:
    return f"{found['same']} of {found['total']}"


def right(arm: dict[str, Any], rule: str) -> str:
    found = arm["rules"][rule]
    return f"{found['passed']:g} of {found['total']}"


def a_row(arm: dict[str, Any]) -> str:
    return f"{arm['seconds'] / arm['answers']:.2f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
