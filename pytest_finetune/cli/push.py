"""``pytest-finetune push``: bring a bundle that verifies to the Hub or to a tracking server."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.bundle.format import BundleError
from pytest_finetune.cli import arguments, verify
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.publish import HubTarget, Parcel, PushError, hub, parse, tracking
from pytest_finetune.publish.hub import branch_name
from pytest_finetune.wording import counted, one_line, size
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Problem
    from pytest_finetune.publish import Pushed, Target

HELP = "push a bundle that verifies to a branch of the Hub or to a tracking server of MLflow"
DESCRIPTION = (
    "Verify a bundle as `verify` does, and push it only when it holds. Credentials come from the environment alone "
    "(HF_TOKEN or `hf auth login`; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN)."
)
_SHOWN = 5


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder that a promotion wrote")
    command.add_argument(
        "--to",
        required=True,
        metavar="PLACE",
        help="hf://org/name[@branch] (default branch: finetune- and the adapter's digest), mlflow:http://host:5000, "
        "or mlflow: for the server in MLFLOW_TRACKING_URI",
    )
    command.add_argument(
        "--create", action="store_true", help="let a Hub repository that is missing be created, private"
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be pushed where")
    verify.add_signature(command)
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Push."""
    folder: Path = args.bundle
    try:
        target = parse(args.to)
    except ValueError as error:
        raise CommandError(f"--to {error}") from None
    if args.create and not isinstance(target, HubTarget):
        raise CommandError("--create is for a repository of the Hub: a tracking server makes its own places")
    if not folder.is_dir():
        raise CommandError(f"{str(folder)!r}: there is no such folder")
    by = verify.signer(args)
    try:
        found, bundle = verify.verified(folder, by)
    except BundleError as error:
        return _refused(folder, [f"it is not verified: {error}"])
    if found.problems:
        return _refused(folder, _unverified(found.problems))
    parcel = Parcel.of(bundle)
    if args.dry_run:
        return _would(parcel, target)
    # What the libraries print goes beside the answer, not into it: --json is for programs.
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("always")
        try:
            pushed = _push(parcel, target, create=args.create)
        except PushError as error:
            return _refused(folder, [str(error)])
    told = [one_line(one.message, 400) for one in caught if issubclass(one.category, UserWarning)]
    return Answer(list(_lines(parcel, pushed)), _tree(parcel, pushed), warnings=told)


def _push(parcel: Parcel, target: Target, *, create: bool) -> Pushed:
    if isinstance(target, HubTarget):
        return hub.push(parcel, target, create=create)
    return tracking.push(parcel, target)


def _unverified(problems: Sequence[Problem]) -> list[str]:
    lines = [f"it is not verified: {counted(len(problems), 'thing')} not as promoted"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} more (`pytest-finetune verify` lists them)")
    return lines


def _refused(folder: Path, why: Sequence[str]) -> Answer:
    head, *rest = (one_line(line, 900) for line in why)
    lines = [f"NOT PUSHED: {folder}: {head}", *(f"  {line}" for line in rest)]
    return Answer(lines, {"bundle": str(folder), "pushed": False, "why": list(why)}, yes=False)


def _would(parcel: Parcel, target: Target) -> Answer:
    place = _place(parcel, target)
    rows = [[name, f"{count:,}"] for name, count in parcel.sizes.items()]
    total = f"{counted(len(rows), 'file')}, {parcel.total_bytes:,} bytes ({size(parcel.total_bytes)})"
    lines = [
        f"would push: {parcel.folder} to {place}",
        *columns(["file", "bytes"], rows, right=[1]),
        f"{total}; the bundle verifies; nothing was sent and nobody was asked",
    ]
    tree = {
        "bundle": str(parcel.folder),
        "pushed": False,
        "dry_run": True,
        "to": place,
        "files": dict(parcel.sizes),
    }
    return Answer(lines, tree)


def _place(parcel: Parcel, target: Target) -> str:
    if isinstance(target, HubTarget):
        return f"hf://{target.repository}@{target.branch or branch_name(parcel)}"
    return str(target)


def _lines(parcel: Parcel, pushed: Pushed) -> Iterator[str]:
    if pushed.new:
        yield f"pushed: {parcel.folder} to {pushed.place}"
    else:
        yield f"already there: {pushed.place} holds this bundle ({parcel.digest[:12]}); nothing to do"
    told = [("adapter", parcel.adapter_sha256[:12]), *pushed.told, ("address", pushed.url)]
    width = max(len(name) for name, _ in told)
    for name, words in told:
        yield f"  {name.ljust(width)}  {one_line(words)}"


def _tree(parcel: Parcel, pushed: Pushed) -> JsonTree:
    return {
        "bundle": str(parcel.folder),
        "pushed": pushed.new,
        "already_there": not pushed.new,
        "to": pushed.place,
        "url": pushed.url,
        "manifest": parcel.digest,
        "adapter_sha256": parcel.adapter_sha256,
        "files": dict(parcel.sizes),
        "told": dict(pushed.told),
    }
