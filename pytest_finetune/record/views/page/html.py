"""Build HTML whose text cannot be markup: whatever is not `Html` already is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from html import escape
from typing import Final

from pytest_finetune.wording import visible

_VOID: Final = frozenset({"br", "input", "meta"})


class Html(str):
    """Markup that this module built. A plain `str` is text."""

    __slots__ = ()


Child = Html | str | int | None
Attribute = str | int | bool | None


def text(value: object) -> Html:
    """Escape foreign text; control and bidirectional characters are spelled out, line breaks kept."""
    return Html(escape(visible(value, keep="\n\t"), quote=True))


def join(children: Iterable[Child], between: Child = None) -> Html:
    """Put children one after the other, strings escaped, None left out."""
    glue = "" if between is None else _child(between)
    return Html(glue.join(_child(child) for child in children if child is not None))


def element(tag: str, /, *children: Child, **attributes: Attribute) -> Html:
    """Build one element. In attribute names `class_` is class and other underscores are hyphens.

    An attribute that is None or False is left out, one that is True stands without a value.

    >>> element("p", "1 < 2", class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2</p>'
    """
    opened = f"<{tag}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opened if tag in _VOID else f"{opened}{join(children)}</{tag}>")


def paragraph(kind: str, *children: Child) -> Html:
    """Build a paragraph of a kind that the style sheet knows: missing, muted, alert."""
    return element("p", *children, class_=f"ft-{kind}")


def folded(title: Child, *inside: Child, class_: str | None = None) -> Html:
    """Build a part that opens when its title is asked for."""
    return element("details", element("summary", title), *inside, class_=class_)


def table(
    head: Sequence[Child], rows: Iterable[Sequence[Child]], caption: str, class_: str | None = None
) -> Html:
    """Build a table with a caption; the first cell of each row is its header. Narrow screens scroll it."""
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    inner = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", *body),
        class_=class_,
    )
    return element("div", inner, class_="ft-scroll", tabindex="0", role="group", aria_label=caption)


def grid(head: Sequence[Child], bodies: Iterable[Html], caption: str, class_: str = "") -> Html:
    """Build a table whose rows stand in groups, with a picture in each."""
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        *bodies,
        class_=f"ft-grid-table {class_}".rstrip(),
    )


def facts(pairs: Iterable[tuple[str, Child]], class_: str = "ft-facts") -> Html:
    """Build a list of named facts; those without a value are left out."""
    groups = [
        element("div", element("dt", name), element("dd", value))
        for name, value in pairs
        if value not in (None, "")
    ]
    return element("dl", *groups, class_=class_)


def _child(child: Child) -> str:
    if isinstance(child, Html):
        return child
    return "" if child is None else text(child)


@lru_cache(1024, typed=True)  # most are the names of classes
def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(visible(value), quote=True)}"'


def sentence_of(text: str) -> str:
    """Begin with a capital and end with a stop, but leave a name such as q8_0 or tuned@f16 as it is written."""
    first = text.split(" ", 1)[0].rstrip(",:")
    return f"{text[:1].upper()}{text[1:]}." if first.isalpha() else f"{text}."
