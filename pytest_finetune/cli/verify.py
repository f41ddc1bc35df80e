"""``pytest-finetune verify``: is this bundle what was promoted, and does its record earn the decision?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.bundle.format import SIGNATURE, BundleError
from pytest_finetune.bundle.reading import Problem, file_problems, open_bundle
from pytest_finetune.bundle.signing import Identity, check_signature
from pytest_finetune.bundle.verify.contents import content_problems
from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.verified import (
    AUTHOR,
    OUTCOMES,
    Findings,
    Part,
    answers_doubt,
    lines,
    refused,
    tree,
    with_parts,
)
from pytest_finetune.cli.verify_rules import rules_again
from pytest_finetune.cli.verify_run import ROWS, row_count, run_again
from pytest_finetune.record.outcomes import GrowthFacts
from pytest_finetune.wording import counted

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle
    from pytest_finetune.yamlfile import Json

HELP = "check a promoted bundle: its files, its record, its decision, its signature"
DESCRIPTION = (
    "Check a bundle by itself, offline and without torch: every digest, the record's schema, and that the decision "
    "follows from the per-row outcomes, thresholds and look in the record. What it proves stands in the last line."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder that a promotion wrote")
    add_signature(command)
    more = command.add_argument_group("run it again", "only when asked, since this runs code")
    more.add_argument(
        "--rules",
        type=Path,
        metavar="DIR",
        help="run the rules in DIR again over the answers; runs the code in DIR",
    )
    more.add_argument(
        "--run",
        dest="rows",
        nargs="?",
        const=ROWS,
        type=row_count,
        metavar="K",
        help=(
            "let the adapter on its base, or the GGUF file that was judged, give K of its answers again "
            f"(default: {ROWS})"
        ),
    )
    more.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="for --run: where the base model lies; its digest must be the recorded one",
    )
    arguments.add_json(command)


def add_signature(command: argparse.ArgumentParser) -> None:
    """Declare who must have signed; `signer` reads it."""
    by = command.add_argument_group("the signature")
    by.add_argument("--public-key", type=Path, metavar="FILE", help="check the signature with this key (PEM)")
    by.add_argument("--identity", metavar="NAME", help="check that this identity signed, through Sigstore")
    by.add_argument("--identity-issuer", metavar="URL", help="the OpenID issuer that vouches for --identity")


def run(args: argparse.Namespace) -> Answer:
    """Verify."""
    folder: Path = args.bundle
    if not folder.is_dir():
        raise CommandError(f"{str(folder)!r}: there is no such folder")
    if args.base is not None and args.rows is None:
        raise CommandError("--base belongs to --run: without it no model is loaded")
    by = signer(args)
    try:
        found, bundle = verified(folder, by)
        if not found.problems:  # what follows from a bundle that was changed says nothing more
            found = with_parts(found, list(_parts(bundle, args)))
    except BundleError as error:
        if not (folder / "MANIFEST.json").is_file():
            raise CommandError(str(error)) from None
        return refused(folder, str(error))
    return Answer(list(lines(folder, found, bundle)), tree(folder, found, bundle), yes=not found.problems)


def _parts(bundle: Bundle, args: argparse.Namespace) -> Iterator[Part]:
    """Yield what was asked for beyond the bundle itself."""
    if args.rules is not None:
        yield rules_again(bundle, args.rules)
    if args.rows is not None:
        yield run_again(bundle, args.rows, args.base)


def signer(args: argparse.Namespace) -> Path | Identity | None:
    """Return the key or identity that the arguments name; CommandError when they contradict."""
    if bool(args.identity) != bool(args.identity_issuer):
        raise CommandError(
            "--identity and --identity-issuer go together: a name means nothing without its issuer"
        )
    if args.identity and args.public_key:
        raise CommandError("--public-key and --identity exclude each other: a bundle has one signature")
    return Identity(args.identity, args.identity_issuer) if args.identity else args.public_key


def verified(folder: Path, signer: Path | Identity | None) -> tuple[Findings, Bundle]:
    """Check a bundle; BundleError when it has no manifest that can be read."""
    bundle = open_bundle(folder)
    problems, checked = file_problems(bundle), []
    checked.append(("files", _files_words(bundle)))
    signature, words = _signature(bundle, signer)
    problems += signature
    checked.append(("signature", words))
    if not problems:  # what follows from a file that was changed says nothing more
        problems = content_problems(bundle)
    if problems:
        return Findings(problems, checked), bundle
    checked.insert(1, ("decision", _decision_words(bundle)))
    leaves = [OUTCOMES, answers_doubt(bundle)]
    proves = [
        f"these are the promoted files, and {_verdict(bundle)} follows from the outcomes in their record"
    ]
    if signer is not None and bundle.signed:
        proves.append(f"signed by {_name(signer)}")
    else:
        leaves.append(AUTHOR)
    return Findings((), checked, proves, leaves), bundle


def _signature(bundle: Bundle, signer: Path | Identity | None) -> tuple[list[Problem], str]:
    if signer is None:
        return [], "there, NOT checked: name the key with --public-key" if bundle.signed else "none"
    if not bundle.signed:
        return [Problem(SIGNATURE, "is missing: the bundle is not signed")], "missing"
    try:
        wrong = check_signature(bundle.folder, signer)
    except BundleError as error:
        raise CommandError(str(error)) from None
    if wrong is None:
        return [], f"holds for {_name(signer)}"
    return [Problem(SIGNATURE, f"does not hold: {wrong}")], "does not hold"


def _files_words(bundle: Bundle) -> str:
    listed = f"{counted(len(bundle.manifest.files), 'file')} as {bundle.manifest.digest[:12]} lists"
    beside = len(bundle.of_the_hub)
    return f"{listed}; {counted(beside, 'file')} of the Hub beside them, left aside" if beside else listed


def _name(signer: Path | Identity) -> str:
    return str(signer) if isinstance(signer, Path) else f"{signer.name} ({signer.issuer})"


def _verdict(bundle: Bundle) -> str:
    return str(bundle.experiment["decision"]["verdict"]).upper()


def _decision_words(bundle: Bundle) -> str:
    experiment = bundle.experiment
    rules = experiment["rules"]
    rows = max((len(facts.get("rows") or ()) for facts in rules.values()), default=0)
    decision = experiment["decision"]
    return (
        f"{_verdict(bundle)}, computed again from {counted(len(rules), 'rule')} on {counted(rows, 'row')} "
        f"(look {decision['looks']} as recorded, alpha {decision['alpha']:.2g}{_grown(decision)})"
    )


def _grown(decision: Json) -> str:
    """Say that rows were added, and of which look the alpha is."""
    growth = decision.get("growth")
    return f"; by e-values, {GrowthFacts.of(growth).words}" if growth else ""
