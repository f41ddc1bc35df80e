"""Support tickets from phrase lists: one incident is chosen, then worded, and the rubric gives its priority.

The lists stand in `phrases/`, one phrase a line. A `Vocabulary` is a choice of their lines, so that
training rows, held-out rows and the base model's corpus can speak in different words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from rubric import Harm, Who, priority

PHRASES: Final = Path(__file__).parent / "phrases"
_LISTS: Final = (
    "blocked",
    "degraded",
    "cosmetic",
    "way_around",
    "no_way_around",
    "openers",
    "alarm",
    "closers",
)
_REPORTERS: Final = ("a caller says: ", "one customer reports: ", "a colleague tells us: ")
_PERSONS: Final = {
    "i": ("am", "I", "my"),
    "w": ("are", "we", "our"),
    "p": ("are", "they", "their"),
    "s": ("is", "they", "their"),
}
_VERBS: Final = ("try", "get", "see", "ask", "find", "want")


class Action(NamedTuple):
    """Something that people do: `complete checkout` with `the checkout`, in the area `checkout`."""

    verb: str
    thing: str
    area: str


class People(NamedTuple):
    """Who is affected, as a subject; `number` is p, s, i (I) or w (we); `short` names them in a reason."""

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
    def load(cls, keep: Callable[[int], bool], folder: Path = PHRASES) -> Vocabulary:
        """Read the lists; `keep` chooses lines by their number (0-based, comments not counted)."""
        actions = tuple(Action(*fields) for fields in _table(folder / "actions.txt", keep))
        people = tuple(map(_people, _table(folder / "who.txt", keep)))
        notes = tuple((who, text) for who, text in _table(folder / "scope_notes.txt", keep))
        slots = _slots(PHRASES / "slots.txt")
        phrases = {name: phrase_lines(folder / f"{name}.txt", keep) for name in _LISTS}
        return cls(actions, people, notes, slots, phrases)

    def __or__(self, other: Vocabulary) -> Vocabulary:
        """Join two vocabularies."""
        phrases = {name: lines + other.phrases[name] for name, lines in self.phrases.items()}
        return Vocabulary(
            self.actions + other.actions,
            self.people + other.people,
            self.scope_notes + other.scope_notes,
            {**self.slots, **other.slots},
            phrases,
        )

    def with_compositions(self, folder: Path, times: int) -> Vocabulary:
        """Add lines whose nouns are slots, such as "the {domain} {tool}", each as often as `times` lines."""
        actions = tuple(Action(*fields) for fields in _table(folder / "actions.txt", every_line))
        people = tuple(map(_people, _table(folder / "who.txt", every_line)))
        return Vocabulary(
            self.actions + actions * times,
            self.people + people * times,
            self.scope_notes,
            {**self.slots, **_slots(folder / "slots.txt")},
            self.phrases,
        )


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
    """Word one incident: what happened to whom, perhaps a way around, perhaps noise in front and behind."""
    action = Action(*_settled(rng, words.slots, rng.choice(words.actions)))
    somebody = rng.choice([people for people in words.people if people.who == incident.who])
    people = _people(_settled(rng, words.slots, somebody))
    template = rng.choice(
        [line for line in words.phrases[incident.harm] if ">" not in line or line.startswith(incident.who)]
    )
    fill = _Filler(rng, words.slots, action, people)
    sentences = [fill(template.split(">")[-1])]
    tags = set()
    if ">" not in template and incident.who == "everyone" and rng.random() < 0.1:
        tags.add("borderline")
        sentences[0] = rng.choice(_REPORTERS) + sentences[0]
    if incident.harm == "cosmetic":
        tags |= {"negative"} if incident.who != "one" else set()
    else:
        tags |= _add_hints(rng, words, incident, fill, sentences)
    if rng.random() < 0.12:
        sentences.insert(0, rng.choice(words.phrases["alarm"]))
        tags |= {"negative"} if priority(*incident) in ("medium", "low") else set()
    if rng.random() < 0.15:
        sentences.insert(0, rng.choice(words.phrases["openers"]))
    if rng.random() < 0.25:
        sentences.append(fill(rng.choice(words.phrases["closers"])))
    short = people.short if "{who" in template else "everyone"
    reason = _reason(incident, action, short)
    return Ticket(_as_typed(rng, sentences), incident, action, short, reason, tuple(sorted(tags)))


def _settled(rng: random.Random, slots: Mapping[str, tuple[str, ...]], fields: Sequence[str]) -> list[str]:
    """Fill the {slots} of a line's fields, the same word wherever a slot stands again."""
    words = {
        name: rng.choice(slots[name]) for name in dict.fromkeys(re.findall(r"\{(\w+)\}", " ".join(fields)))
    }
    return [_plural(field.format(**words)) for field in fields]


def _plural(text: str) -> str:
    """Mend plurals that were made by adding an s.

    >>> _plural("all librarys, two boxs and one branchs")
    'all libraries, two boxes and one branches'
    """
    return re.sub(r"(x|ch|sh)s\b", r"\1es", re.sub(r"([^aeiou])ys\b", r"\1ies", text))


def _add_hints(
    rng: random.Random, words: Vocabulary, incident: Incident, fill: _Filler, sentences: list[str]
) -> set[str]:
    """Add a second hint at who is affected and what is known of a way around; return tags."""
    notes = [text for who, text in words.scope_notes if who == incident.who]
    if rng.random() < 0.25:
        sentences.insert(rng.randint(0, 1) if incident.who == "one" else 1, rng.choice(notes))
    detour = _detour(rng, words, incident.way_around)
    if detour:
        sentences.insert(0 if rng.random() < 0.1 else len(sentences), fill(detour))
    return {"borderline"} if "{alt}" in detour and not incident.way_around else set()


def _detour(rng: random.Random, words: Vocabulary, way_around: bool) -> str:
    if way_around:
        return rng.choice(words.phrases["way_around"])
    return rng.choice(words.phrases["no_way_around"]) if rng.random() < 0.55 else ""


def _reason(incident: Incident, action: Action, short: str) -> str:
    if incident.harm == "cosmetic":
        return f"cosmetic issue in {action.area}, nobody is blocked"
    way = "workaround exists" if incident.way_around else "no workaround"
    return f"{action.area} {incident.harm} for {short}, {way}"


class _Filler:
    """Fill the {slots} of a phrase; one ticket keeps its people and its alternative."""

    def __init__(
        self, rng: random.Random, slots: Mapping[str, tuple[str, ...]], action: Action, people: People
    ) -> None:
        self._rng = rng
        self._slots = slots
        be, pronoun, possessive = _PERSONS[people.number]
        third = people.number == "s"
        self._known: dict[str, str] = {
            "who": people.subject,
            "whom": re.sub(r"^we\b", "us", re.sub(r"^I$", "me", people.subject)),
            "they": pronoun,
            "are": be,
            "have": "has" if third else "have",
            "vp": action.verb.replace("their", possessive),
            "thing": action.thing,
            "area": action.area,
            **{verb: _third(verb) if third else verb for verb in _VERBS},
        }

    def __call__(self, phrase: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda slot: self._word(slot[1]), phrase)

    def _word(self, name: str) -> str:
        return self._known[name] if name in self._known else self._rng.choice(self._slots[name])


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


def every_line(number: int) -> bool:
    """Keep all lines."""
    return True


def phrase_lines(path: Path, keep: Callable[[int], bool] = every_line) -> tuple[str, ...]:
    """Return the lines of a phrase list; `keep` chooses by number, 0-based, comments not counted."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(line for number, line in enumerate(lines) if keep(number))


def _people(fields: Sequence[str]) -> People:
    who, subject, number, short = fields
    if who not in ("everyone", "group", "one"):
        raise ValueError(f"who.txt: {who!r} is none of everyone, group, one")
    return People(who, subject, number, short)  # type: ignore[arg-type]


def _table(path: Path, keep: Callable[[int], bool]) -> list[list[str]]:
    return [line.split(" | ") for line in phrase_lines(path, keep)]


def _slots(path: Path) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values.split("; ")) for name, values in _table(path, every_line)}
