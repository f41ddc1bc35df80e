"""``verify BUNDLE --run [K]``: does the adapter on its base, or the GGUF file, give the recorded answers?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.bundle.reading import Problem
from pytest_finetune.bundle.shipped import MODEL, judged_file
from pytest_finetune.bundle.verify.reproduced import base_differs, reproduced
from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.verified import Part, answers_doubt
from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint import base_digest
from pytest_finetune.fingerprint.hub import cached_snapshot
from pytest_finetune.wording import counted, one_line

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.bundle.verify.reproduced import Reproduced
    from pytest_finetune.experiment import Experiment

ROWS: Final = 5
_ANSWER_CHARS: Final = 120


def row_count(text: str) -> int:
    """Read how many rows to ask again."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of rows: write BUNDLE before --run, or --run=5"
        )
    return int(text)


def run_again(bundle: Bundle, count: int, named: Path | None) -> Part:
    """Load the adapter on the base, or serve the GGUF file that was judged, and ask some held-out rows again."""
    experiment, file = bundle.resolved(), judged_file(bundle.experiment)
    if file is not None and named is not None:
        raise CommandError(f"--base: the decision was made on {MODEL}, which is asked here: leave --base out")
    base = _base(bundle, experiment, named) if file is None else None
    try:
        found = reproduced(bundle, experiment, base, count)
    except FinetuneError as error:
        raise CommandError(f"--run: {error}") from None
    notes = [_elsewhere(found)] if found.elsewhere else []
    doubt, asked = answers_doubt(bundle), len(found.asked)
    if found.different:
        problems = [
            Problem(
                f"row {one.row}",
                f"is not answered as recorded: recorded {one_line(repr(one.recorded), _ANSWER_CHARS)}, "
                f"now {one_line(repr(one.now), _ANSWER_CHARS)}",
            )
            for one in found.different
        ]
        equal = f"{asked - len(found.different):,} of {counted(asked, 'answer')} came out as recorded"
        return Part("run", doubt, problems=problems, notes=[equal, *notes])
    kept = "model" if bundle.whole_model else "adapter"
    whose, by = f"the {kept}", f"the {kept} on {base}"
    if file is not None:
        whose, by = MODEL, f"{MODEL}, served by {one_line(file['server'])}"
    return Part(
        "run",
        doubt,
        words=f"{asked:,} of {counted(asked, 'answer')} as recorded, given again by {by}",
        proves=[f"{whose} gives {asked:,} of its {counted(found.total, 'answer')} again"],
        leaves=[f"that it gives the other {found.total - asked:,}"] if asked < found.total else [],
        notes=notes,
    )


def _base(bundle: Bundle, experiment: Experiment, named: Path | None) -> Path:
    """Return the base model's folder; CommandError unless it has the recorded digest."""
    base = named if named is not None else _recorded_base(bundle, experiment)
    if not base.is_dir():
        raise CommandError(f"--base {str(base)!r}: there is no such folder")
    here = base_digest(base, trust_remote_code=experiment.trust_remote_code).training_parts()
    differs = base_differs(bundle.experiment["key_fields"]["base"], here)
    if differs:
        listed = "\n".join(f"  {part}" for part in differs)
        raise CommandError(
            f"--run: {base} is not the base model that was trained on:\n{listed}\n  name the right folder with --base"
        )
    return base


def _recorded_base(bundle: Bundle, experiment: Experiment) -> Path:
    if experiment.trust_remote_code:
        raise CommandError(
            f"--run: the base model {experiment.base_model!r} brings code of its own (trust_remote_code); name the "
            "folder whose code you trust with --base"
        )
    folder = Path(experiment.base_model).expanduser()
    if folder.is_dir():
        return folder
    found = cached_snapshot(experiment.base_model, bundle.manifest.revision)
    if found is None:
        raise CommandError(
            f"--run: the base model {experiment.base_model!r} is not here; name its folder with --base"
        )
    return found


def _elsewhere(found: Reproduced) -> str:
    changed = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in found.elsewhere.items())
    return f"asked in another environment than the run: {changed}; there another rounding can choose another token"
