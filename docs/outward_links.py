"""Show a link to a file that is no page of the documentation as its text: the built site has no such file.

MkDocs calls `on_page_markdown` for each page (`hooks` in mkdocs.yml). On GitHub, where the whole repository is at hand,
the same link leads to the file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any, Final

LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page without links that lead out of the documentation."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(link: re.Match[str]) -> str:
        outside = posixpath.normpath(posixpath.join(folder, link[2])).startswith("..")
        return link[1] if outside else link[0]

    return LINK.sub(shown, markdown)
