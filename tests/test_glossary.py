"""The special words are explained on one page, and linked by every page that uses them: to that page, or to more about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_finetune.record.views.page.glossary import WORDS

ROOT = Path(__file__).parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
FROM_CODE = set((ROOT / "docs" / "reference").glob("*.md"))  # their words are those of schemas and docstrings
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {GLOSSARY} - FROM_CODE)
# Where a word has an everyday meaning too, only what can hardly be that.
SPECIAL = {
    "brake": r"\*?brakes?\*?",
    "claim": r"\*?claims?\*?",
    "gate": r"gates?",
    "job": r"[Jj]obs?(?=\]\()",
    "look": r"(?:[Ll]ooks?(?=\]\()|(?:[Aa]|[Tt]he|[Ee]ach|earlier|another|new|further|this|of) looks?)",
    "noisy row": r"noisy\s+(?:rows?|under)",
    "replay": r"[Rr]eplay(?=\]\()",
    "recipe": r"(?:[Aa]|[Tt]he|[Tt]his|one|of) recipes?",
    "seed": r"(?:[Ee]ach|[Ss]everal|[Nn]ext|[Oo]ne|[Aa]nother|the) seeds?",
    "spend": r"(?:spend|spent|spending)",
    "step": r"[Ss]teps?(?=\]\()",
}


def anchor(word: str) -> str:
    return word.replace(" ", "-")


def pattern(word: str) -> str:
    plain = r"\s+".join(re.escape(part) for part in word.split()) + "s?"
    return rf"\b(?:{SPECIAL.get(word, f'[{word[0].upper()}{word[0]}]' + plain[1:])})\b"


def prose(text: str) -> str:
    """Return a page without code, tables, headings and addresses, each replaced by blanks of its length."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found.group())

    text = re.sub(r"^```.*?^```", blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:\||#|>>>|\.\.\.|!\[).*$", blank, text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\]\()[^)]*", blank, text)  # where a link leads to
    return re.sub(r"`[^`]*`", blank, text)


def test_the_page_of_the_docs_says_what_the_page_of_a_record_says() -> None:
    rows = re.findall(r"^### (.+)\n\n(.+)$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    assert {word: re.sub(r"[`*]", "", text).partition(" See ")[0] for word, text in rows} == WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_links_each_word_that_it_uses(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    links = [range(one.start(), one.end()) for one in re.finditer(r"\[[^\]]*\]\(", text)]
    uses = {word: [found.start() for found in re.finditer(pattern(word), text)] for word in WORDS}
    linked = {
        word for word, places in uses.items() if any(place in link for place in places for link in links)
    }
    assert [word for word, places in uses.items() if places and word not in linked] == []


def test_every_link_to_the_glossary_leads_to_a_word() -> None:
    known = {anchor(word) for word in WORDS}
    for page in PAGES:
        assert set(re.findall(r"glossary\.md#([\w-]+)", page.read_text(encoding="utf-8"))) <= known


def test_the_readme_leads_to_the_glossary() -> None:
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
