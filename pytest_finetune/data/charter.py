"""Ask of an experiment whether it should exist: is it a behaviour, is it one, and would less do?

The advice is the fit matrix of docs/scope.md, in the same words; a test keeps them equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.catalogue import shown
from pytest_finetune.data.findings import Finding, Findings

if TYPE_CHECKING:
    from pytest_finetune.experiment import CharterText


class Fit(NamedTuple):
    """A row of the fit matrix: the signal, the better first tool, and the reason."""

    signal: str
    first_tool: str
    reason: str


FIT_MATRIX: Final = {
    "fresh": Fit(
        "The answer depends on facts that change",
        "retrieval",
        "An adapter freezes what was true on the day of training and keeps saying it, with confidence.",
    ),
    "inventory": Fit(
        "The behaviour is a list of things to know",
        "retrieval or a database tool",
        "A few hundred rows do not store an inventory; they teach the model to sound as if it knew.",
    ),
    "prompted": Fit(
        "A prompt already works most of the time",
        "a better prompt",
        "A prompt changes in a minute, needs no GPU and moves to the next base model for free.",
    ),
    "format": Fit(
        "The task is clear and the form of the answer drifts",
        "LoRA",
        "A stable form is what a small adapter learns well from a few hundred rows, and it can be counted.",
    ),
    "vague": Fit(
        "The behaviour is vague, or several behaviours at once",
        "redesigning the task",
        "Rows that pull in several directions teach none, and no single rule can say whether it got better.",
    ),
    "ability": Fit(
        "The base model lacks the ability, also with examples in the prompt",
        "another base model or a smaller task",
        "An adapter steers what the model can do; it adds little that is not there.",
    ),
}

_STATED: Final = {
    "owner": (
        "Nobody will notice when the adapter goes wrong.",
        "Name the person or team that answers for it.",
    ),
    "base_license": (
        "An adapter inherits the base model's terms.",
        "State the base model's licence, e.g. apache-2.0.",
    ),
    "data_license": (
        "Rows that may not be trained on taint the adapter.",
        "State the licence of the rows, or `internal`.",
    ),
    "personal_data": ("Models recite what they were trained on.", "State none, redacted or approved."),
    "retire_when": (
        "Adapters outlive the reason that they were made for.",
        "State the event or date that ends its use.",
    ),
}

# Words at which knowledge, not behaviour, is asked for.
_FACTS: Final = re.compile(
    r"\b(?:latest|up[- ]to[- ]date|current(?:ly)?|recent|today'?s|this (?:week|month|quarter|year)|news|"
    r"hand ?books?|polic(?:y|ies)|price(?: ?list)?s?|catalog(?:ue)?s?|inventor(?:y|ies)|stock levels?|"
    r"all (?:our|the) \w+|every (?:product|customer|employee|document)s?|knowledge ?base|documentation|wiki|"
    r"faqs?|"
    r"knows? (?:about|all|our|the)|memori[sz]e|learn (?:about|all|our|the facts))\b",
    re.IGNORECASE,
)
_VAGUE: Final = re.compile(
    r"\b(?:better|good|nice(?:r)?|helpful|smart(?:er)?|improve|general(?:ly)?|various|anything|everything|etc|"
    r"and so on|our (?:style|way|domain))\b",
    re.IGNORECASE,
)
_VERBS: Final = (
    "answer|apologi[sz]e|assign|call|categori[sz]e|classify|compose|convert|correct|decide|describe|detect|draft|"
    "escalate|explain|extract|fix|format|generate|grade|identify|label|list|mark|name|normali[sz]e|parse|predict|rank|"
    "recommend|redact|refuse|reply|report|respond|return|rewrite|route|score|select|shorten|sort|split|state|suggest|"
    "summari[sz]e|tag|translate|triage|write"
)
_SECOND_VERB: Final = re.compile(
    rf"(?:,|;|\band\b|\bthen\b|\bas well as\b)\s+(?:also\s+|then\s+)?(?:{_VERBS})\b", re.IGNORECASE
)
_FIRST_VERB: Final = re.compile(rf"^\W*(?:{_VERBS})\b", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"[.!?]+(?:\s+|$)")
_UNTRIED: Final = re.compile(
    r"^\W*(?:no|none|not (?:yet|tried|done)|never|n/?a|todo|tbd|skipped)\b", re.IGNORECASE
)
_WORKS: Final = re.compile(
    r"\b(?:works? (?:well|fine|mostly|most of|reliably|almost)|mostly (?:works|right|correct)|good enough|"
    r"no problems?|"
    r"(?:9\d|100) ?%)",
    re.IGNORECASE,
)
_LACKS: Final = re.compile(
    r"\b(?:cannot|can't|can not|unable|does(?: not|n't) (?:know|understand|speak|reason)|no idea|"
    r"random(?:ly)?|gibberish)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class OpenQuestion(Finding):
    """A question of the charter that nobody answered yet."""


class Charter:
    """The charter of an experiment; `text` is what its owner wrote."""

    def __init__(self, text: CharterText) -> None:
        self.text = text

    def findings(self) -> Findings:
        """Return what speaks against this fine-tune, or is not stated; empty when all is said and fits."""
        return Findings(replace(finding, read=shown(finding.read)) for finding in self._findings())

    def objections(self) -> Findings:
        """Return what speaks against this fine-tune; questions that nobody answered yet are a to-do, in `.notes`."""
        found = self.findings()
        return Findings(
            replace(one, severity="note") if isinstance(one, OpenQuestion) else one for one in found
        )

    def _findings(self) -> Iterator[Finding]:
        yield from _behaviour(self.text.behaviour)
        yield from _facts(self.text.facts_change)
        yield from _prompt(self.text.prompt_tried)
        for key, (why, fix) in _STATED.items():
            value = getattr(self.text, key)
            if not value or not str(value).strip():
                rule = f"charter/{key.replace('_', '-')}"
                yield OpenQuestion(rule, "warning", f"{key} is not stated", why, fix)


def _behaviour(text: str | None) -> Iterator[Finding]:
    if not text or not text.strip():
        why = "Without the behaviour in one sentence nobody can say whether the rows teach it."
        fix = (
            "Write charter.behaviour: one sentence that begins with a verb (Return, Classify, Rewrite, ...)."
        )
        yield OpenQuestion("charter/behaviour", "error", "behaviour is not stated", why, fix)
        return
    sentences = [part for part in _SENTENCE_END.split(text.strip()) if part.strip()]
    vague = FIT_MATRIX["vague"]
    if len(sentences) > 1:
        read = f"{len(sentences)} sentences: {text!r}"
        fix = "Keep one sentence; make the rest other experiments."
        yield Finding("charter/one-behaviour", "warning", read, vague.reason, fix)
    elif _FIRST_VERB.search(text) and (second := _SECOND_VERB.search(text)):
        read = f"a second behaviour at {second[0].strip()!r}: {text!r}"
        fix = "Split it: one experiment for each behaviour."
        yield Finding("charter/one-behaviour", "warning", read, vague.reason, fix)
    if word := _VAGUE.search(text):
        read = f"{word[0]!r} cannot be counted: {text!r}"
        fix = f"First tool: {vague.first_tool}. Say what stands in the answer and how a test sees it."
        yield Finding("charter/vague", "warning", read, vague.reason, fix)
    if word := _FACTS.search(text):
        inventory = FIT_MATRIX["inventory"]
        read = f"{word[0]!r} asks for facts: {text!r}"
        fix = f"First tool: {inventory.first_tool}. Keep facts outside and teach the form of the answer."
        yield Finding("charter/facts-inventory", "warning", read, inventory.reason, fix)


def _facts(often: str | None) -> Iterator[Finding]:
    fresh = FIT_MATRIX["fresh"]
    if often is None:
        fix = "Write charter.facts_change: never, rarely or often."
        yield OpenQuestion("charter/facts-change", "warning", "facts_change is not stated", fresh.reason, fix)
    elif often == "often":
        fix = f"First tool: {fresh.first_tool}. Put the documents into the prompt; fine-tune for form only."
        yield Finding("charter/facts-change", "error", "facts_change: often", fresh.reason, fix)


def _prompt(tried: str | None) -> Iterator[Finding]:
    prompted, ability = FIT_MATRIX["prompted"], FIT_MATRIX["ability"]
    if not tried or not tried.strip() or _UNTRIED.search(tried):
        read = f"prompt_tried: {tried!r}" if tried else "prompt_tried is not stated"
        fix = (
            f"First tool: {prompted.first_tool}. Try one, with examples in it, and write down what was wrong."
        )
        kind = Finding if tried else OpenQuestion
        yield kind("charter/prompt-tried", "warning", read, prompted.reason, fix)
    elif _WORKS.search(tried):
        fix = f"First tool: {prompted.first_tool}. Fine-tune what it still gets wrong; few_shot measures it."
        yield Finding("charter/prompt-works", "warning", f"prompt_tried: {tried!r}", prompted.reason, fix)
    elif _LACKS.search(tried):
        fix = f"First tool: {ability.first_tool}. Check with examples in the prompt whether the base can."
        yield Finding("charter/base-ability", "warning", f"prompt_tried: {tried!r}", ability.reason, fix)
