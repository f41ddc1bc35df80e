"""A page of its own, beside the record's: whole without a script, nothing fetched, the styles of a record's page."""

from __future__ import annotations

from pytest_finetune.record.views.page.document import asset
from pytest_finetune.record.views.page.html import Child, Html, element, join


def whole_page(title: str, *parts: Child) -> str:
    """Return parts under their title as one HTML page."""
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Html(asset("style.css") + asset("page.css"))),
        ]
    )
    body = element("main", element("h1", title), *parts, class_="ft")
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en")


def said_first(sentence: str, change: str, *between: str) -> list[Child]:
    """Return what a page says above all else: its sentence, what belongs to it, and what to do next."""
    first = element("p", element("strong", _sentence(sentence)))
    return [first, *(element("p", _sentence(one)) for one in between), element("p", f"Next: {change}.")]


def rests_on(rule: str, rows: str, purpose: str) -> Html:
    """Return the paragraph below a table: by which rule and on which rows it was scored, and what it is good for."""
    said = f"Scored by rule {rule} on {rows}, which are neither trained on nor judged by: {purpose}."
    return element("p", said, class_="ft-muted")


def _sentence(text: str) -> str:
    """Begin with a capital, but leave a name such as q8_0 or lora.r as it is written."""
    first = text.split(" ", 1)[0]
    return f"{text[:1].upper()}{text[1:]}." if first.isalpha() else f"{text}."
