"""A page of its own, beside the record's: whole without a script, nothing fetched, the styles of a record's page."""

from __future__ import annotations

from pytest_finetune.record.views.page.document import asset
from pytest_finetune.record.views.page.html import Child, Html, element, join, sentence_of


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
    first = element("p", element("strong", sentence_of(sentence)))
    return [first, *(element("p", sentence_of(one)) for one in between), element("p", f"Next: {change}.")]


def rests_on(rule: str, rows: str, purpose: str) -> Html:
    """Return the paragraph below a table: by which rule and on which rows it was scored, and what it is good for."""
    said = f"Scored by rule {rule} on {rows}, which are neither trained on nor judged by: {purpose}."
    return element("p", said, class_="ft-muted")
