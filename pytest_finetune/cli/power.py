"""``pytest-finetune power``: what the held-out file can show, before anything is trained."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.project import Project, left_out
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.plan import Plan
from pytest_finetune.judging.statistics.power import rows_to_settle
from pytest_finetune.wording import margin, points
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows

HELP: Final = "the smallest gain that the held-out file can show"
DESCRIPTION: Final = (
    "Say which gain the held-out file can demonstrate at the next look, and how many rows a gain of "
    "decision.min_gain asks for. Nothing is trained or asked."
)
_RULES_UNSEEN: Final = (
    "compared with decision.min_gain; a primary rule with a min_gain of its own stands in the tests "
    "and is not seen here"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)


def run(args: argparse.Namespace) -> Answer:
    """Answer with no when a true gain of ``decision.min_gain`` would probably not be demonstrated."""
    project = Project.of(args)
    decision = project.experiment.decision
    rows = project.rows(project.experiment.paths.eval_file, "eval")
    levels = Levels(decision.confidence, _next_look(project, rows), decision.spend, decision.grow)
    plan = Plan(len(rows), decision.min_gain, levels, decision.power)
    tree = {
        **project.heading(),
        "eval_file": rows.path,
        "rows": len(rows),
        "defects": len(rows.defects),
        "groups": len({row.group for row in rows if row.group is not None}),
        "look": levels.look,
        "alpha": levels.claim,
        "confidence": decision.confidence,
        "spend": decision.spend,
        "power": decision.power,
        "fewest_rows": levels.fewest_rows,
        "keep_possible": plan.possible,
        "smallest_gain": plan.smallest,
        "min_gain": decision.min_gain,
        "shows_min_gain": plan.opens,
        "rows_for_min_gain": rows_to_settle(
            decision.min_gain,
            plan.discordance(decision.min_gain),
            0.0,
            levels.claim,
            decision.power,
            grow=decision.grow,
        ),
        "line": plan.line,
        "warning": plan.warning,
    }
    return Answer(list(_lines(tree)), tree, yes=plan.opens, warnings=list(project.store.warnings))


def _next_look(project: Project, rows: Rows) -> int:
    """Return k of the look that comes next: one by an adapter that has not been judged on these rows."""
    questions = frozenset(row.question_digest for row in rows)
    digests = frozenset(row.digest for row in rows)
    return project.store.looks.next(digests, questions, grow=project.experiment.decision.grow)


def _lines(tree: Json) -> Iterator[str]:
    yield f"{tree['task']} ({tree['experiment']}): {tree['warning'] or tree['line']}"
    yield ""
    needed = tree["rows_for_min_gain"]
    facts = [
        ("held-out rows", f"{tree['rows']:,} ({tree['eval_file']})"),
        (
            "next look",
            f"{tree['look']}, alpha {tree['alpha']:.2g}{'' if tree['spend'] else ' (looks are not counted)'}",
        ),
        ("fewest rows for any keep", f"{tree['fewest_rows']:,}"),
        ("smallest gain proven", _gain(tree["smallest_gain"])),
        ("decision.min_gain", margin(tree["min_gain"])),
        (
            f"rows to prove it in {tree['power']:.0%} of runs",
            "no number up to 5,000" if needed is None else f"about {needed:,}",
        ),
    ]
    yield from columns(("", ""), facts)[1:]
    yield ""
    yield f"a true gain of decision.min_gain {'can' if tree['shows_min_gain'] else 'would probably not'} be proven"
    yield _RULES_UNSEEN
    if tree["groups"]:
        yield f'rows share {tree["groups"]:,} groups: a rule with cluster="group" proves less than independent rows do'
    if tree["defects"]:
        yield left_out(tree["defects"])


def _gain(gain: float | None) -> str:
    return "none, however large" if gain is None else points(gain).lstrip("+")
