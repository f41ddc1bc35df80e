"""``pytest-finetune shipped``: what each quantisation of the adapter loses, and how large it is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from pytest_finetune.cli import arguments, trials
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.experiment.runtimes import LLAMA, OLLAMA, QUANTIZATIONS, quantization_meant
from pytest_finetune.judging.quantised import PROVES_NOTHING, Against, Served, SizeTable
from pytest_finetune.record.views.page.shipped import shipped_page
from pytest_finetune.wording import counted, figure, gain_span, signed, size

HELP: Final = "what each quantisation of the adapter loses, and how large its file is"
DESCRIPTION: Final = (
    "Merge, convert and quantise the adapter, let each file answer the development rows through its server, and hold "
    "its score against the adapter on its base. What was trained, made or asked before is reused. No held-out row is "
    "read and no look is spent."
)
_QUANTS: Final = "q8_0,q5_k_m,q4_k_m"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)
    command.add_argument(
        "--quants", default=_QUANTS, metavar="A,B,...", help=f"the quantisations (default: {_QUANTS})"
    )
    command.add_argument(
        "--server", default=LLAMA, choices=(LLAMA, OLLAMA), help=f"what serves the files (default: {LLAMA})"
    )
    command.add_argument("--html", action="store_true", help="print the table as one HTML page")
    command.set_defaults(over=[])


def run(args: argparse.Namespace) -> Answer:
    """Make the files, let them answer, and lay out what they lose."""
    quants = _read(args.quants)
    project = trials.checked(args, [])
    found = trials.run_trials(args, {"kind": "shipped", "quants": quants, "server": args.server})
    table = SizeTable(tuple(Served.of_json(one) for one in found["trials"]))
    if len(table.served) < 2:
        raise CommandError("no file was made; what pytest said stands above")
    page = shipped_page(table, project.experiment.name) if args.html else ""
    tree = {**project.heading(), "server": args.server, **table.as_json()}
    return Answer(list(_lines(table)), tree, page=page)


def _read(text: str) -> list[str]:
    """Read the names of quantisations; CommandError for one that is not known, or named twice."""
    named = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in QUANTIZATIONS:
            guess = quantization_meant(name)
            meant = f"; did you mean {guess}?" if guess else ""
            raise CommandError(
                f"--quants: {name!r} is not what llama.cpp makes without a matrix of importance{meant}\n"
                f"  known: {', '.join(QUANTIZATIONS)}"
            )
    if not named or len(set(named)) < len(named):
        raise CommandError(f"--quants: found {text!r}: name each quantisation once, as in {_QUANTS}")
    return named


def _lines(table: SizeTable) -> Iterator[str]:
    sentence, change = table.advice
    yield sentence
    yield f"next: {change}"
    yield ""
    head = ("served", "size", "right", "difference", "lost", "won", "alike", "s/row")
    yield from columns(head, [_row(one, against) for one, against in table.rows], right=(1, 2, 4, 5, 6, 7))
    last = table.served[-1].trained.score
    rows = counted(last.tally.total, "development row")
    yield ""
    yield (
        f"scored by rule {last.rule} on {rows}; difference in points, rows lost and won, and texts alike, against "
        f"{table.served[0].name}: {PROVES_NOTHING}"
    )


def _row(one: Served, against: Against | None) -> tuple[object, ...]:
    passed = f"{one.trained.score.tally.passed:g}"
    if against is None:
        return (one.name, "-", passed, "", "", "", "", figure(one.seconds, 2))
    return (
        one.name,
        "-" if one.bytes is None else size(one.bytes),
        passed,
        f"{signed(against.gain.gain)} {gain_span(against.interval)}",
        *against.changed,
        one.alike,
        figure(one.seconds, 2),
    )
