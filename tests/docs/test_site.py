"""The built documentation has every page, and no link to a file that it does not have."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from docs.outward_links import on_page_markdown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_page_stands_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("data.md", "see [`examples/tools`](../examples/tools/README.md).", "see `examples/tools`."),
        ("ci/README.md", "[glossary](../glossary.md#look)", "[glossary](../glossary.md#look)"),
        ("ci/README.md", "[the picture](../../README.md)", "the picture"),
        ("data.md", "![a picture](../picture.png)", "![a picture](../picture.png)"),
    ],
)
def test_a_link_that_leads_out_of_the_documentation_is_shown_as_its_text(
    page: str, written: str, shown: str
) -> None:
    given = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert on_page_markdown(written, page=given) == shown


def test_the_site_asks_nothing_of_the_network() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in configuration
    assert "plugins: [search]" in configuration  # `offline` adds a script of another host to every page
    assert "http" not in configuration
