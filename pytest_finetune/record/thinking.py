"""Which arms the token limit cut while they were thinking, so that nothing can be concluded from their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.answering.arm_plans import TUNED
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.wording import arm as arm_in_words

CUT: Final = 0.1
"""The share of answers that were cut from which an arm is no fair opponent."""


def cut_while_thinking(tree: Mapping[str, Any]) -> dict[str, NextChange]:
    """Return, by arm, what to do about one whose answers the limit kept from being given."""
    return {
        arm: NextChange(_remedy(facts), _because(arm, facts, tree))
        for arm, facts in sorted(tree.get("arms", {}).items())
        if "@" not in arm and _too_often(facts)
    }


def _too_often(facts: Mapping[str, Any]) -> bool:
    thinking = facts.get("thinking")
    return bool(thinking and thinking["cut"] >= CUT * facts["answers"])


def _because(arm: str, facts: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    limit = tree["config"]["generation"]["max_new_tokens"]
    cut = f"{facts['thinking']['cut']:,} of {facts['answers']:,} answers were cut while thinking"
    verdict = "cannot be judged" if arm == TUNED else "is no fair opponent"
    return f"{arm_in_words(arm)} {verdict}: {cut}, at the limit of {limit} tokens"


def _remedy(facts: Mapping[str, Any]) -> str:
    switch = facts["thinking"].get("off")
    off = f"with thinking off (prompt.chat_template_kwargs: {switch}) or " if switch else ""
    return f"ask again {off}with a higher generation.max_new_tokens"
