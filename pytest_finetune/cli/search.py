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
from pytest_finetune.experiment.over import parse_over
from pytest_finetune.experiment.rewriting import with_values
from pytest_finetune.judging.searched import FLATTERED, Searched, SearchTrial, next_step
from pytest_finetune.record.views.page.search import search_page
from pytest_finetune.wording import counted, figure, percent, rate_span

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
    command.add_argument("--html", action="store_true", help="print the trials as one HTML page")


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
    told = trials.run_trials(args, {"kind": "search", "budget": args.budget, "seed": args.seed})["trials"]
    done = tuple(SearchTrial.of_json(at, one, overs) for at, one in enumerate(told, start=1))
    found = Searched(overs, done)
    if not found.complete:
        why = found.trials[0].why
        raise CommandError(
            f"none of {counted(len(found.trials), 'trial')} came to its end; the first one: {why}"
        )
    text = project.experiment.path(project.experiment.file).read_text(encoding="utf-8-sig")
    values = {**parse_set(args.overrides), **found.best[0].values}
    rests_on = _rests_on(args, project, found)
    file.write_text(f"{rests_on}\n{with_values(_without_heading(text), values)}", encoding="utf-8")
    name = file.relative_to(project.experiment.root).as_posix()
    page = search_page(found, project.experiment.name, name) if args.html else ""
    tree = {**project.heading(), **found.as_json(), "file": name}
    return Answer(list(_lines(found, name)), tree, page=page)


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


def _rests_on(args: argparse.Namespace, project: Project, found: Searched) -> str:
    """Say above the experiment what its values rest on."""
    asked = " ".join(f"--over {shlex.quote(str(over))}" for over in found.overs)
    _, best = found.best
    score = best.score
    return "\n".join(
        [
            f"{_FIRST} {asked} --budget {args.budget} --seed {args.seed}, from {project.experiment.file}.",
            f"# Best of {counted(len(found.trials), 'trial')} ({found.ends}) by rule {score.rule} on "
            f"{counted(score.tally.total, 'development row')}: {percent(score.rate)} {rate_span(best.interval)},",
            f"# trained on {counted(best.rows, 'row')}; the best of several is flattered by having been chosen.",
            "# No held-out row was read for it: judge it once, by pytest --finetune.",
        ]
    )


def _lines(found: Searched, name: str) -> Iterator[str]:
    best, _ = found.best
    yield found.sentence
    yield found.won_by
    if found.at_an_end:
        yield found.at_an_end
    yield f"next: {next_step(name)}"
    yield ""
    keys = [over.key for over in found.overs]
    rows = [_row(one, keys, one is best) for one in found.trials]
    head = ("trial", *keys, "rate", "interval", "loss", "")
    yield from columns(head, rows, right=[at for at in range(len(head)) if at != len(keys) + 2])
    yield from (f"  trial {one.number} {one.state}: {one.why}" for one in found.trials if one.why)
    yield ""
    yield f"written to {name}; {FLATTERED}"


def _row(one: SearchTrial, keys: Sequence[str], is_best: bool) -> tuple[object, ...]:
    values = [one.value(key) for key in keys]
    if one.trained is None:
        return (one.number, *values, one.state, "", "", "")
    loss = one.trained.score.loss
    shown = (
        percent(one.trained.score.rate),
        rate_span(one.trained.interval),
        "-" if loss is None else figure(loss),
    )
    return (one.number, *values, *shown, "best" if is_best else "")
