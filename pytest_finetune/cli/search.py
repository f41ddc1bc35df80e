"""``pytest-finetune search``: a few settings tried on the development rows; the best becomes an experiment file."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.cli import trials
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.errors import lacking
from pytest_finetune.experiment import parse_set
from pytest_finetune.experiment.over import Over, parse_over
from pytest_finetune.experiment.rewriting import with_values
from pytest_finetune.judging.learning import Trained
from pytest_finetune.wording import counted, figure, percent, rate_span
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.cli.project import Project

HELP: Final = "settings tried on the development rows, the best written down"
DESCRIPTION: Final = (
    "Try values of a few settings (Optuna proposes them), each as an ordinary training that is judged on the "
    "development rows alone, and write the best into an experiment file. The same command goes on where it stopped. "
    "No held-out row is read and no look is spent: judge the winner once, by pytest --finetune."
)
_FIRST: Final = "# Written by pytest-finetune search"
_MOST: Final = 1000


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    trials.add_arguments(command)
    command.add_argument(
        "--budget", type=_budget, default=8, metavar="TRIALS", help="how many trials at most (default: 8)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the proposals (default: 0)")
    command.add_argument(
        "--write",
        metavar="FILE",
        help="where the best is written (default: beside the experiment, as in finetune.search.yaml)",
    )


def _budget(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of trials: write 1 to {_MOST}")
    return int(text)


def run(args: argparse.Namespace) -> Answer:
    """Search, and write the best trial down."""
    overs = parse_over(args.over)
    if not overs:
        raise CommandError("say what is to be tried, as in --over training.learning_rate=1e-4..1e-3")
    if absent := lacking("optuna"):
        raise CommandError(f"a search needs {absent}")
    project = trials.checked(args, overs)
    file = _place(args, project)
    found = trials.run_trials(args, {"kind": "search", "budget": args.budget, "seed": args.seed})
    done = [Trained.of_json(one["tried"]) for one in found["trials"] if one["tried"]]
    if not done:
        why = found["trials"][0]["why"]
        raise CommandError(
            f"none of {counted(len(found['trials']), 'trial')} came to its end; the first one: {why}"
        )
    best = max(done, key=lambda one: one.score.rank)  # the first of equals
    told = _rests_on(args, project, overs, found, best)
    text = project.experiment.path(project.experiment.file).read_text(encoding="utf-8-sig")
    values = {**parse_set(args.overrides), **best.overrides}
    file.write_text(f"{told}\n{with_values(_without_heading(text), values)}", encoding="utf-8")
    name = file.relative_to(project.experiment.root).as_posix()
    tree: JsonTree = {
        **project.heading(),
        "trials": [_trial(one) for one in found["trials"]],
        "best": {"values": dict(best.overrides), "rate": best.score.rate, "adapter": best.score.adapter},
        "file": name,
    }
    return Answer(list(_lines(found["trials"], overs, best, name)), tree)


def _place(args: argparse.Namespace, project: Project) -> Path:
    """Return the file to write; CommandError where one is there that no search wrote."""
    own = Path(project.experiment.file)
    file = project.experiment.path(
        args.write or str(own.with_name(f"{own.stem.removesuffix('.search')}.search.yaml"))
    )
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(_FIRST):
        raise CommandError(
            f"--write {args.write or file.name}: is there already, and no search wrote it: name another"
        )
    return file


def _without_heading(text: str) -> str:
    """Leave out what an earlier search wrote above the experiment."""
    if not text.startswith(_FIRST):
        return text
    lines = text.splitlines(keepends=True)
    return "".join(lines[next(at for at, line in enumerate(lines) if not line.startswith("#")) :])


def _rests_on(
    args: argparse.Namespace, project: Project, overs: Sequence[Over], found: Json, best: Trained
) -> str:
    """Say above the experiment what its values rest on."""
    asked = " ".join(f"--over {shlex.quote(str(over))}" for over in overs)
    states = [one["state"] for one in found["trials"]]
    ends = ", ".join(
        f"{states.count(word)} {word}" for word in ("complete", "pruned", "failed") if word in states
    )
    score = best.score
    return "\n".join(
        [
            f"{_FIRST} {asked} --budget {args.budget} --seed {args.seed}, from {project.experiment.file}.",
            f"# Best of {counted(len(states), 'trial')} ({ends}) by rule {score.rule} on "
            f"{counted(score.tally.total, 'development row')}: {percent(score.rate)} {rate_span(best.interval)},",
            f"# trained on {counted(best.rows, 'row')}; the best of several is flattered by having been chosen.",
            "# No held-out row was read for it: judge it once, by pytest --finetune.",
        ]
    )


def _trial(one: Json) -> JsonTree:
    tried = one["tried"] and Trained.of_json(one["tried"])
    return {
        "values": one["values"],
        "state": one["state"],
        "why": one["why"],
        "rate": tried and tried.score.rate,
        "loss": tried and tried.score.loss,
        "reused": tried and tried.reused,
        "adapter": tried and tried.score.adapter,
    }


def _lines(found: Sequence[Json], overs: Sequence[Over], best: Trained, name: str) -> Iterator[str]:
    rows = []
    for number, one in enumerate(found, start=1):
        values = [_value(one["values"][over.key]) for over in overs]
        tried = one["tried"] and Trained.of_json(one["tried"])
        rate = percent(tried.score.rate) if tried else one["state"]
        loss = "-" if tried is None or tried.score.loss is None else figure(tried.score.loss)
        rows.append(
            (number, *values, rate, loss, "best" if tried and tried.overrides == best.overrides else "")
        )
    named = ", ".join(f"{key} {_value(value)}" for key, value in best.overrides.items())
    score = best.score
    yield (
        f"best of {counted(len(found), 'trial')}: {named}, {percent(score.rate)} {rate_span(best.interval)} of "
        f"{counted(score.tally.total, 'development row')} by rule {score.rule}"
    )
    yield ""
    yield from columns(
        ("trial", *(over.key for over in overs), "rate", "loss", ""), rows, right=range(len(overs) + 3)
    )
    yield ""
    yield (
        f"written to {name}; the best of several is flattered by having been chosen: judge it once, by "
        f"`pytest --finetune -o finetune_experiments={name}`"
    )


def _value(value: object) -> str:
    return figure(value) if isinstance(value, float) else str(value)
