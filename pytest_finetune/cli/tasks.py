"""The kinds of task that `init` knows: sample rows, contract and rules of each, and what the experiment says of it."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final, NamedTuple


class Kind(NamedTuple):
    """What an experiment of this kind is called, teaches, may answer at most, and is judged by."""

    task: str
    behaviour: str
    max_new_tokens: int
    primary: str


DEFAULT: Final = "json-labels"
TASKS: Final = {
    DEFAULT: Kind(
        "shop_message_intent_json",
        "Classify the intent of a short shop message as strict JSON.",
        32,
        "intent",
    ),
    "text-labels": Kind("shop_message_intent", "Classify the intent of a short shop message.", 8, "intent"),
    "extraction": Kind(
        "shop_order_fields", "Extract item, quantity and day of a short order as JSON.", 48, "fields"
    ),
    "tool-calls": Kind("shop_tools", "Call the tool that a short shop message asks for.", 64, "tool"),
    "style": Kind(
        "shop_reply_style",
        "Rewrite a note to a customer so that it thanks first.",
        64,
        "thanks_in_two_sentences",
    ),
    "chat": Kind(
        "shop_chat",
        "Ask a customer for the order number where it is missing.",
        48,
        "asks_for_the_order_number_where_it_is_missing",
    ),
}


def suited(relative: str, text: str, name: str) -> str:
    """Return a file of the starter as a kind of task has it; `text` is that of the default one."""
    if name == DEFAULT:
        return text
    own = files("pytest_finetune.cli").joinpath("tasks_files", name, *f"{relative}.starter".split("/"))
    if own.is_file():
        return own.read_text("utf-8")
    kind = TASKS[name]
    if relative == "tests/test_decision.py":
        return text.replace('"intent"', f'"{kind.primary}"')
    if relative == "finetune.yaml":
        for pattern, put in (
            (r"^task: .*", f"task: {kind.task}"),
            (r"max_new_tokens: \d+", f"max_new_tokens: {kind.max_new_tokens}"),
            (r"^  behaviour: .*", f"  behaviour: {kind.behaviour}"),
        ):
            text = re.sub(pattern, put, text, count=1, flags=re.M)
    return text
