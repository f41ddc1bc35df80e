"""What people said of answers that a judge judges too: a file of labels, matched with the answers of this run."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.judging.agreement import DEFAULT_LABELS
from pytest_finetune.judging.rule import RuleBroken

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.judging.rule import Rule
    from pytest_finetune.yamlfile import Json

DRAWN: Final = 30
"""So many unlabelled answers of each arm are written down to be labelled."""


def labels_of(
    root: Path, rule: Rule, answers: Mapping[str, Mapping[str, Answer]], arms: Collection[str]
) -> dict[str, dict[str, bool]]:
    """Return the labels by arm and row, the last for each; those of other answers than these are left out.

    `arms` are all that the run has: a label of any other is a mistake.
    """
    file = root / (rule.labels or DEFAULT_LABELS)
    found: dict[str, dict[str, bool]] = {arm: {} for arm in answers}
    if not file.is_file():
        if rule.labels is None:
            return found
        raise RuleBroken(f"labels={rule.labels!r}: there is no such file in {root}")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        label = _read(line, f"{file.name}:{number}", arms)
        answer = answers.get(label["arm"], {}).get(label["id"])
        if answer is not None and label["pass"] is not None and _same(label, answer.response):
            found[label["arm"]][label["id"]] = label["pass"]
    return found


def _read(line: str, place: str, arms: Collection[str]) -> dict[str, Any]:
    try:
        label = json.loads(line)
        sound = (
            isinstance(label["id"], str)
            and label["arm"] in arms
            and (label["pass"] is None or isinstance(label["pass"], bool))
            and isinstance(label.get("answer_sha256", label.get("answer")), str)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise RuleBroken(
            f"{place} is no label: write a row such as "
            '{"id": "row", "arm": "tuned", "answer": "the whole answer", "pass": true} '
            f"(arm: {', '.join(arms)}; answer_sha256 may stand for answer; null is no label yet)"
        )
    return dict(label)


def _same(label: Mapping[str, Any], answer: str) -> bool:
    told = label.get("answer_sha256")
    return bool(told == sha256_hex(answer.encode()) if told is not None else label["answer"] == answer)


def write_templates(folder: Path, experiment: Json, answers: Mapping[str, Sequence[Json]]) -> None:
    """Write answers to be labelled by people to ``judge_labels/<rule>.jsonl``, drawn at random for each judged rule."""
    for name, rule in experiment["rules"].items():
        if not rule.get("verdicts") or rule.get("pairwise"):
            continue
        said = rule["verdicts"].get("labels", {})
        draw = random.Random(name)
        lines: list[dict[str, object]] = []
        for arm in said:
            under = arm if rule.get("suite") is None else f"{arm}@{rule['suite']}"
            given = [answer for answer in answers.get(under, ()) if answer["id"] not in said[arm]]
            lines += [
                {
                    "id": one["id"],
                    "arm": arm,
                    "prompt": one["prompt"],
                    "answer": one["response"],
                    "pass": None,
                }
                for one in draw.sample(given, min(DRAWN, len(given)))
            ]
        draw.shuffle(lines)  # whoever labels should not know the arm by its place
        safe = "".join(char if char.isalnum() or char in "-_" else "_" for char in name)
        file = folder / "judge_labels" / f"{safe}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
