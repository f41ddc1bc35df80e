"""What the base model reads before it sees this project's task: tickets, and questions about them, in prose.

The corpus is worded from the training rows' phrase lists, from lines that the training rows do not use, and
from larger lists (`phrases/more`, `phrases/composed`); one line in seven of the project's own lists is left
out of it. It never holds a ticket of the project, nor eight words in a row of a held-out one, nor JSON with
a priority in it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from rubric import PRIORITIES
from ticket_language import INCIDENTS, PHRASES, Ticket, Vocabulary, every_line, phrase_lines, write_ticket

HERE: Final = Path(__file__).parent
TEMPLATE: Final = "Instruction: {instruction}\nInput: {input}\nAnswer:"
_PASSAGE: Final = 8
_LEFT_OUT: Final = 6

PRIORITY_QUESTIONS: Final = (
    "How urgent is this ticket?",
    "What priority does this ticket have?",
    "Classify the support ticket priority.",
    "Classify the priority of the ticket and say why.",
    "Give the support ticket a priority.",
    "Which priority would you give this support ticket?",
    "Read the ticket and judge its priority.",
    "Say how important this is and give the reason.",
    "Triage this ticket.",
    "Decide the ticket priority and return a short reason.",
    "Classify the support ticket and return the priority.",
    "Judge the urgency of the support ticket strictly.",
)
_LABEL_FIRST: Final = (
    "This is {label}. It affects {people}, {harm}, and {way}.",
    "This looks {label}: {harm} for {people} and {way}.",
    "Priority {label}, because {harm} for {people}; {way}.",
    "I would treat it as {label}. Affected: {people}; {harm}, {way}.",
    "I would call this {label}, since {harm} for {people} and {way}.",
    "{Label} priority: {harm} for {people}, {way}.",
    "The priority is {label}, as {harm} for {people} and {way}.",
    "{Label}. {Harm} for {people} and {way}.",
)
_REASON_FIRST: Final = (
    "It affects {people}, {harm} and {way}, so I would treat it as {label}.",
    "{Harm} for {people} and {way}. That makes it {label}.",
    "Since {harm} for {people} and {way}, this is {label}.",
)
_HARM: Final = {
    "blocked": ("it blocks {area}", "{thing} is unusable", "the work on {area} has stopped"),
    "degraded": ("it slows {area} down", "{thing} works badly", "the work on {area} goes on slowly"),
}
_COSMETIC: Final = (
    "This is {label}. It is only cosmetic.",
    "This looks {label}: nobody is kept from working, it is only about {area}.",
    "Priority {label}, because no work is blocked; it is a small matter of {area}.",
    "{Label} priority: nothing is broken in {area}.",
    "I would call this {label}, since nobody is held up.",
    "Nobody is held up, so this is {label}.",
)
_WAY: Final = {
    True: ("there is a way around", "there is a workaround", "they have another way"),
    False: ("there is no way around", "there is no workaround", "they have no other way"),
}
_FIELDS: Final = ("area", "thing", "people", "who", "harm", "way", "level")
_FORM_QUESTIONS: Final = (
    "Fill in the form for this ticket.",
    "Read the ticket and return the fields.",
    "Take down the ticket.",
    "Return the ticket as a record.",
    "Describe the support ticket and return it in this form.",
    "Sort the support ticket.",
)


class Document(NamedTuple):
    """A text of the corpus as (part, learned) pieces: questions are read, answers are learned to be given."""

    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(part for part, _ in self.pieces)


class Corpus:
    """An endless stream of documents, the same for the same seed."""

    def __init__(self, seed: int, held_out: Sequence[str], training: Sequence[str]) -> None:
        own = Vocabulary.load(lambda line: line % 7 != _LEFT_OUT)
        more = Vocabulary.load(every_line, PHRASES / "more")
        self._words = (own | more).with_compositions(PHRASES / "composed", times=6)
        self._rng = random.Random(seed)
        self._forbidden = {passage for text in held_out for passage in _passages(text)}
        self._training = {_plain(text) for text in training}

    def documents(self) -> Iterator[Document]:
        """Yield documents: mostly one question about one ticket, some filled-in series, some bare tickets."""
        while True:
            kind = self._rng.random()
            if kind < 0.6:
                yield self._asked(_priority_answer, PRIORITY_QUESTIONS)
            elif kind < 0.84:
                question, answer = self._rng.choice(_OTHER_QUESTIONS)
                yield self._asked(answer, question)
            elif kind < 0.98:
                yield self._series()
            else:
                yield Document(((self._ticket().text + "\n", True), ("", True)))

    def _ticket(self) -> Ticket:
        while True:
            incident = self._rng.choice(INCIDENTS[self._rng.choice(PRIORITIES)])
            ticket = write_ticket(self._rng, self._words, incident)
            if _plain(ticket.text) not in self._training and self._forbidden.isdisjoint(
                _passages(ticket.text)
            ):
                return ticket

    def _asked(self, answer: Answer, questions: Sequence[str]) -> Document:
        ticket = self._ticket()
        prompt = TEMPLATE.format(instruction=self._rng.choice(questions), input=ticket.text)
        return Document(((prompt, False), (" " + answer(self._rng, ticket), True)))

    def _series(self) -> Document:
        """Three to five tickets answered in one and the same form, which only the series itself defines."""
        question = self._rng.choice(_FORM_QUESTIONS)
        form = _form(self._rng)
        pieces: list[tuple[str, bool]] = []
        for number in range(self._rng.randint(3, 5)):
            ticket = self._ticket()
            prompt = TEMPLATE.format(instruction=question, input=ticket.text)
            learned = number > 0  # the first answer cannot be known, it sets the form
            pieces += [(("\n\n" if number else "") + prompt, False), (" " + form(self._rng, ticket), learned)]
        return Document(tuple(pieces))


Answer = Callable[[random.Random, Ticket], str]


def _priority_answer(rng: random.Random, ticket: Ticket) -> str:
    label = ticket.priority
    if ticket.incident.harm == "cosmetic":
        return _prose(rng.choice(_COSMETIC), label=label, area=ticket.action.area)
    template = rng.choice(_LABEL_FIRST if rng.random() < 0.75 else _REASON_FIRST)
    return _prose(
        template,
        label=label,
        people=ticket.people,
        harm=_harm(rng, ticket),
        way=rng.choice(_WAY[ticket.incident.way_around]),
    )


def _harm(rng: random.Random, ticket: Ticket) -> str:
    if ticket.incident.harm == "cosmetic":
        return "nobody is held up"
    return _prose(rng.choice(_HARM[ticket.incident.harm]), area=ticket.action.area, thing=ticket.action.thing)


def _who_answer(rng: random.Random, ticket: Ticket) -> str:
    scope = {"everyone": "That is everyone.", "group": "That is a group.", "one": "That is one person."}
    return f"It is about {ticket.people}. {scope[ticket.incident.who]}"


def _way_answer(rng: random.Random, ticket: Ticket) -> str:
    if ticket.incident.harm == "cosmetic":
        return "None is needed, nobody is held up."
    return (
        ("Yes, " if ticket.incident.way_around else "No, ")
        + rng.choice(_WAY[ticket.incident.way_around])
        + "."
    )


def _harm_answer(rng: random.Random, ticket: Ticket) -> str:
    verdict = {
        "blocked": "Badly: the work has stopped.",
        "degraded": "Somewhat: the work goes on, but badly.",
        "cosmetic": "Not at all: it is only cosmetic.",
    }
    return verdict[ticket.incident.harm]


def _area_answer(rng: random.Random, ticket: Ticket) -> str:
    return f"It is about {ticket.action.area}."


def _summary(rng: random.Random, ticket: Ticket) -> str:
    if ticket.incident.harm == "cosmetic":
        return f"A small matter of {ticket.action.area}, nobody is held up."
    return _prose("{Harm} for {people}.", harm=_harm(rng, ticket), people=ticket.people)


def _steps(rng: random.Random, ticket: Ticket) -> str:
    who, harm, way_around = ticket.incident
    if harm == "cosmetic":
        return "Only cosmetic, which is low."
    parts = [{"everyone": "everyone", "group": "a group", "one": "one person"}[who], harm]
    parts.append("a way around" if way_around else "no way around")
    return (
        f"Affected: {parts[0]}. Effect: {parts[1]}. There is {parts[2]}. Together that is {ticket.priority}."
    )


_OTHER_QUESTIONS: Final[Sequence[tuple[Sequence[str], Answer]]] = (
    (("Who is affected?", "How many people does this hit?", "Name who is affected."), _who_answer),
    (("Is there a way around?", "Does the ticket name a workaround that works?"), _way_answer),
    (("How bad is it?", "How badly are people held up?"), _harm_answer),
    (("What is the ticket about?", "Name the area."), _area_answer),
    (("Summarise the ticket in one sentence.", "Say in a few words what happened."), _summary),
    (("Explain the priority step by step.", "Go through the ticket and judge it."), _steps),
)


def _form(rng: random.Random) -> Answer:
    """Choose a form: one to three fields, their names and their layout; a JSON form never has the level."""
    layout = rng.choice(("json", "json", "lines", "pairs", "bars", "words"))
    fields = rng.sample([name for name in _FIELDS if layout != "json" or name != "level"], rng.randint(1, 3))
    names = rng.sample(_keys(), len(fields))

    def fill(rng: random.Random, ticket: Ticket) -> str:
        values = [_value(field, ticket) for field in fields]
        named = list(zip(names, values, strict=True))
        if layout == "json":
            return json.dumps(dict(named), separators=(",", ":"))
        if layout == "bars":
            return " | ".join(values)
        if layout == "words":
            return ", ".join(values) + "."
        mark, end = (": ", "; ") if layout == "lines" else ("=", ", ")
        return end.join(f"{name}{mark}{value}" for name, value in named)

    return fill


@cache
def _keys() -> tuple[str, ...]:
    return phrase_lines(PHRASES / "more" / "form_keys.txt")


def _value(field: str, ticket: Ticket) -> str:
    values: dict[str, str] = {
        "area": ticket.action.area,
        "thing": ticket.action.thing,
        "people": ticket.people,
        "who": ticket.incident.who,
        "harm": ticket.incident.harm,
        "way": "yes" if ticket.incident.way_around else "no",
        "level": ticket.priority,
    }
    return values[field]


def _prose(template: str, **words: str) -> str:
    capitals = {name.capitalize(): text[0].upper() + text[1:] for name, text in words.items()}
    return template.format(**words, **capitals)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _passages(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[at : at + _PASSAGE]) for at in range(max(1, len(words) - _PASSAGE + 1))}


def tickets_of(path: Path) -> list[str]:
    """Return the ticket texts of a JSONL file of rows."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["input"] for row in rows]
