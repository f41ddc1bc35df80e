"""Support tickets from phrase lists: one incident is chosen, then worded, and the rubric gives its priority.

The lists stand in `phrases/`, one phrase a line. A `Vocabulary` is a choice of their lines, so that training rows,
held-out rows and the base model's corpus can speak in different words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from rubric import Harm, Who, priority

PHRASES: Final = Path(__file__).parent / "phrases"
_LISTS: Final = (
    "blocked", "degraded", "cosmetic", "way_around", "no_way_around", "openers", "alarm", "closers",
)  # fmt: skip


class Action(NamedTuple):
    """Something that people do: `complete checkout` with `the checkout`, in the area `checkout`."""

    verb: str
    thing: str
    area: str


class People(NamedTuple):
    """Who is affected, as a subject; `number` is p, s, i (I) or w (we); `short` is how a reason names them."""

    who: Who
    subject: str
    number: str
    short: str


class Incident(NamedTuple):
    """What happened, as answers to the rubric's three questions."""

    who: Who
    harm: Harm
    way_around: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Phrases to word tickets with."""

    actions: tuple[Action, ...]
    people: tuple[People, ...]
    scope_notes: tuple[tuple[str, str], ...]
    slots: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, keep: Callable[[int], bool] = lambda line: True) -> Vocabulary:
        """Read the lists; `keep` chooses lines by their number (0-based, comments not counted)."""
        actions = tuple(Action(*fields) for fields in _table("actions", keep))
        people = tuple(People(*fields) for fields in _table("who", keep))  # type: ignore[arg-type]
        notes = tuple((who, text) for who, text in _table("scope_notes", keep))
        slots = {name: tuple(values.split("; ")) for name, values in _table("slots", lambda line: True)}
        return cls(actions, people, notes, slots, {name: _lines(name, keep) for name in _LISTS})


@dataclass(frozen=True, slots=True)
class Ticket:
    """A worded incident: the text, what it is about, and what the rubric says."""

    text: str
    incident: Incident
    action: Action
    people: str
    reason: str
    tags: tuple[str, ...]

    @property
    def priority(self) -> str:
        """The rubric's answer."""
        return priority(*self.incident)


INCIDENTS: Final[Mapping[str, tuple[Incident, ...]]] = {
    "critical": (Incident("everyone", "blocked", False),),
    "high": (
        Incident("everyone", "blocked", True),
        Incident("everyone", "degraded", False),
        Incident("group", "blocked", False),
    ),
    "medium": (
        Incident("everyone", "degraded", True),
        Incident("group", "blocked", True),
        Incident("group", "degraded", False),
        Incident("one", "blocked", False),
    ),
    "low": (
        Incident("everyone", "cosmetic", False),
        Incident("group", "cosmetic", False),
        Incident("one", "cosmetic", False),
        Incident("group", "degraded", True),
        Incident("one", "blocked", True),
        Incident("one", "degraded", False),
    ),
}


def write_ticket(rng: random.Random, words: Vocabulary, incident: Incident) -> Ticket:
    """Word one incident: who, what, perhaps a way around, perhaps noise in front and behind."""
    action = rng.choice(words.actions)
    people = rng.choice([people for people in words.people if people.who == incident.who])
    template = rng.choice(
        [line for line in words.phrases[incident.harm] if ">" not in line or line.startswith(incident.who)]
    )
    named = ">" not in template
    fill = _Filler(rng, words.slots, action, people)
    sentences = [fill(template.split(">")[-1])]
    tags = set()
    if named and incident.who == "everyone" and rng.random() < 0.1:
        tags.add("borderline")
        sentences[0] = rng.choice(("a caller says: ", "one customer reports: ", "a colleague tells us: ")) + sentences[0]
    notes = [text for who, text in words.scope_notes if who == incident.who]
    if notes and incident.harm != "cosmetic" and rng.random() < 0.25:
        sentences.insert(rng.randint(0, 1) if incident.who == "one" else 1, rng.choice(notes))
    if incident.harm != "cosmetic":
        detour = _detour(rng, words, incident.way_around)
        if detour:
            sentences.insert(0 if rng.random() < 0.1 else len(sentences), fill(detour))
        if "{alt}" in detour and not incident.way_around:
            tags.add("borderline")
    if rng.random() < 0.12:
        sentences.insert(0, rng.choice(words.phrases["alarm"]))
        if priority(*incident) in ("medium", "low"):
            tags.add("negative")
    if incident.harm == "cosmetic" and incident.who != "one":
        tags.add("negative")
    if rng.random() < 0.15:
        sentences.insert(0, rng.choice(words.phrases["openers"]))
    if rng.random() < 0.25:
        sentences.append(fill(rng.choice(words.phrases["closers"])))
    short = people.short if named and "{who" in template else "everyone"
    return Ticket(
        _as_typed(rng, sentences), incident, action, short, _reason(incident, action, short), tuple(sorted(tags))
    )


def _detour(rng: random.Random, words: Vocabulary, way_around: bool) -> str:
    if way_around:
        return rng.choice(words.phrases["way_around"])
    return rng.choice(words.phrases["no_way_around"]) if rng.random() < 0.55 else ""


def _reason(incident: Incident, action: Action, short: str) -> str:
    if incident.harm == "cosmetic":
        return f"cosmetic issue in {action.area}, nobody is blocked"
    return f"{action.area} {incident.harm} for {short}, {'workaround exists' if incident.way_around else 'no workaround'}"


class _Filler:
    """Fill the {slots} of a phrase; one ticket keeps its people and its alternative."""

    def __init__(
        self, rng: random.Random, slots: Mapping[str, tuple[str, ...]], action: Action, people: People
    ) -> None:
        self._rng = rng
        self._slots = slots
        subject = self._filled(people.subject)
        first = {"i": ("I", "am", "I"), "w": ("we", "are", "we"), "p": ("", "are", "they"), "s": ("", "is", "they")}
        _, be, pronoun = first[people.number]
        third = people.number == "s"
        self._known = {
            "who": subject,
            "whom": re.sub(r"^we\b", "us", re.sub(r"^I$", "me", subject)),
            "they": pronoun,
            "are": be,
            "have": "has" if third else "have",
            "vp": action.verb if people.number not in "iw" else action.verb.replace("their", "our" if people.number == "w" else "my"),
            "thing": action.thing,
            **{verb: _third(verb) if third else verb for verb in ("try", "get", "see", "ask", "find", "want")},
        }

    def __call__(self, phrase: str) -> str:
        return self._filled(phrase)

    def _filled(self, phrase: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda slot: self._word(slot[1]), phrase)

    def _word(self, name: str) -> str:
        known: dict[str, str] = getattr(self, "_known", {})
        return known[name] if name in known else self._rng.choice(self._slots[name])


def _third(verb: str) -> str:
    return "tries" if verb == "try" else f"{verb}s"


def _as_typed(rng: random.Random, sentences: list[str]) -> str:
    """Join the sentences the way people type: mostly proper, sometimes in a hurry."""
    hurry = rng.random()
    if hurry > 0.2:
        sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    text = " ".join(sentences)
    if 0.1 < hurry <= 0.2:
        text = text.lower()
    if hurry <= 0.1 or rng.random() < 0.1:
        text = text.rstrip(".")
    if rng.random() < 0.06:
        at = rng.randrange(len(text) // 3, len(text) - 1)
        text = text[:at] + text[at + 1 :]
    return text


def _lines(name: str, keep: Callable[[int], bool]) -> tuple[str, ...]:
    text = (PHRASES / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(line for number, line in enumerate(lines) if keep(number))


def _table(name: str, keep: Callable[[int], bool]) -> list[list[str]]:
    return [line.split(" | ") for line in _lines(name, keep)]
