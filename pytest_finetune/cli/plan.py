"""``pytest-finetune plan``: what the training of an experiment needs, against a card."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, columns
from pytest_finetune.cli.project import Project
from pytest_finetune.memory.hardware.detect import HEADROOM, detect, expandable_segments
from pytest_finetune.memory.plan.explain import as_json, roomy_gib
from pytest_finetune.memory.plan.plan import DOES_NOT_FIT, plan_memory
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.memory.plan.workload import TRL_STEP
from pytest_finetune.wording import size
from pytest_finetune.yamlfile import Json

HELP: Final = "the memory plan of an experiment on a card"
DESCRIPTION: Final = (
    "Predict the peak memory of the training from the model's config.json alone: no weights, no GPU. "
    "Without --budget the card that is here is asked; where there is none, the plan is printed and not judged."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    arguments.add_experiment(command)
    command.add_argument(
        "--budget",
        type=arguments.budget,
        metavar="CARD",
        help="a known card (rtx-4090) or a size (8GiB); default: the card that is here",
    )
    command.add_argument(
        "--headroom",
        type=arguments.share,
        metavar="SHARE",
        help="how much of the card stays free: 8%% or 0.08 (default: 8%%)",
    )
    command.add_argument(
        "--step",
        metavar="CLASS",
        help="the training step to trace, as module:Class or file.py:Class (default: TRL's)",
    )


def run(args: argparse.Namespace) -> Answer:
    """Plan, and answer with no when it does not fit."""
    project = Project.of(args)
    train = project.rows(project.experiment.paths.train_file, "train")
    counted = project.tokens(train) or {}
    budget = args.budget or detect("auto", project.store.root)
    budget = budget.with_headroom(HEADROOM if args.headroom is None else args.headroom)
    planner = Planner(project.store)
    plan = plan_memory(
        project.experiment,
        counted.get("max"),
        planner,
        families=(budget.family,) if budget.comparable else (),
        step=args.step or TRL_STEP,
        expandable_segments=expandable_segments(),
    )
    tree = {
        **project.heading(),
        "base_model": project.experiment.base_model,
        "peft_method": project.experiment.peft_method,
        **as_json(plan, budget if budget.comparable else None, planner),
        "budget": budget.as_json() if budget.comparable else None,
        "not_compared": budget.incomparable_because,
    }
    warnings = list(project.store.warnings)
    return Answer(list(_lines(tree)), tree, yes=tree["fits"] != DOES_NOT_FIT, warnings=warnings)


def _lines(tree: Json) -> Iterator[str]:
    yield _verdict(tree)
    at = f"{tree['phase']}, layer {tree['layer']}" if tree["layer"] is not None else tree["phase"]
    yield (
        f"  {tree['task']} ({tree['experiment']}): {tree['peft_method']} on {tree['base_model']}, "
        f"batch {tree['batch']}, {tree['tokens']} tokens; peak in {at}"
    )
    yield from (f"  {note}" for note in tree["notes"])
    if tree["crowded"]:
        yield f"  {tree['crowded']}"
    yield ""
    yield from _parts(tree)
    yield ""
    yield f"tightest constraint: {tree['tightest']}"
    if tree["fits"] == DOES_NOT_FIT:
        yield ""
        yield from _remedies(tree)


def _verdict(tree: Json) -> str:
    peak, needed = size(tree["predicted_peak_bytes"]), size(tree["needed_bytes"])
    if tree["budget"] is None:
        because = tree["not_compared"].replace("--finetune-", "--")
        return f"predicted peak {peak}, at least {needed}; not judged: {because}"
    budget = tree["budget"]
    usable = f"{size(budget['usable_bytes'])} are usable ({budget['name']}, {budget['headroom']:.0%} headroom kept)"
    if tree["fits"] == "fits":
        return f"fits: predicted peak {peak}, {usable}"
    if tree["fits"] == "tight":
        return f"tight: runs in {needed} while the allocator keeps giving memory back (peak {peak}), {usable}"
    return f"does not fit: needs at least {needed} (predicted), {usable}"


def _parts(tree: Json) -> Iterator[str]:
    peak = tree["predicted_peak_bytes"]
    parts = sorted(tree["breakdown"].items(), key=lambda part: -part[1])
    rows = [(name, size(count), f"{count / peak:.0%}") for name, count in parts if count]
    yield from columns(
        ("part of the peak", "size", "share"), [*rows, ("peak", size(peak), "100%")], right=(1, 2)
    )


def _remedies(tree: Json) -> Iterator[str]:
    remedies = tree["remedies"]
    if remedies:
        alone = any(remedy["enough"] for remedy in remedies if not remedy["pair"] and not remedy["cuts"])
        told = "" if alone else "; none is enough that keeps rows and model"
        yield f"one change at a time, each planned anew{told}:"
        rows = [_row(remedy) for remedy in remedies if not remedy["pair"]]
        yield from columns(("change", "needs", "fits", ""), rows, right=(1,))
        yield ""
    if joined := [remedy for remedy in remedies if remedy["pair"]]:
        yield "together, the fastest first:" if joined[0]["enough"] else "together, the best:"
        yield from columns(("changes", "needs", "fits", ""), [_row(one) for one in joined], right=(1,))
        yield ""
    headroom = tree["budget"]["headroom"]
    roomy = roomy_gib(tree["needed_bytes"], headroom)
    yield f"to judge another card: --budget={roomy}GiB ({headroom:.0%} headroom kept, it fits there)"


def _row(remedy: Json) -> tuple[str, str, str, str]:
    needs = size(remedy["needed_bytes"])
    return remedy["change"], needs, "yes" if remedy["enough"] else "no", remedy["note"]
