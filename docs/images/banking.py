r"""Take the pictures of the banking example's recipe, learning curve and search, from its commands' pages.

make banking-seeds
(cd examples/banking && pytest-finetune curve --set split.dev=0.2 --html > curve.html)
(cd examples/banking && pytest-finetune search --set split.dev=0.2 --over training.learning_rate=1e-4..3e-3 \
    --html > search.html)
python -m docs.images.banking examples/banking
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from benchmarks.chromium import Browser

HERE: Final = Path(__file__).parent
WIDTH: Final = 900


def main(project: Path) -> None:
    """Write a picture of each page that is there beside this file."""
    with Browser() as browser:
        for name, page, part in (
            ("recipe", project / "finetune-record" / "report.html", "section:has(> h3[id$='-recipe'])"),
            ("curve", project / "curve.html", "main"),
            ("search", project / "search.html", "main"),
        ):
            if not page.is_file():
                continue
            tab = browser.open(page, WIDTH, 1000)
            picture = HERE / f"{name}.png"
            picture.write_bytes(tab.picture_of(part))
            tab.close()
            print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
