"""``verify BUNDLE --rules DIR``: run the rules again over the bundle's answers, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.bundle.verify.rejudged import rejudged
from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.verified import OUTCOMES, Part
from pytest_finetune.wording import counted, listed
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.bundle.reading import Bundle

_SAID_CHARS: Final = 2_000
_ALONE: Final = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_XDIST_WORKER")
"""What a surrounding pytest would tell the one that is started here."""


def rules_again(bundle: Bundle, rules: Path) -> Part:
    """Run the rules that lie in a folder, or a file, over the answers in the bundle."""
    if not rules.exists():
        raise CommandError(f"--rules {str(rules)!r}: there is no such folder")
    found = rejudged(bundle.experiment, _run(bundle.folder.resolve(), rules.resolve()), str(rules))
    if found.problems:
        return Part("rules", OUTCOMES, problems=found.problems, notes=found.notes)
    words = (
        f"{counted(len(found.rules), 'rule')} of {rules} run again, {found.outcomes:,} outcomes as recorded"
    )
    by = f"the outcomes follow from the answers by the rules in {rules}"
    if found.reworded:
        by += f" (whose text differs in {listed(found.reworded)})"
    return Part(
        "rules",
        OUTCOMES,
        words=words,
        proves=(by,),
        leaves=tuple(f"the outcomes of {name} (not checked: {why})" for name, why in found.unchecked.items()),
        notes=found.notes,
    )


def _run(bundle: Path, rules: Path) -> JsonTree:
    """Run the child and return what it found; what it writes stays in a scratch folder that goes away."""
    environment = {name: value for name, value in os.environ.items() if name not in _ALONE}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            sys.executable,
            "-P",
            "-m",
            "pytest_finetune.suite.rules.rejudging",
            str(bundle),
            str(rules),
            scratch,
        ]
        place = rules if rules.is_dir() else rules.parent
        done = subprocess.run(
            words, cwd=place, env=environment, capture_output=True, text=True, errors="replace"
        )
        file = Path(scratch) / "found.json"
        found: JsonTree = json.loads(file.read_bytes()) if file.is_file() else {"rules": {}, "errors": []}
    if not found["rules"] and not found["errors"]:
        said = (done.stderr.strip() or done.stdout.strip())[-_SAID_CHARS:]
        raise CommandError(
            f"--rules {rules}: no eval_rule of this experiment was found there; pytest said:\n{said}"
        )
    return found
