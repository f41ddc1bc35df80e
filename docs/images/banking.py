"""Take the pictures of the banking example's recipe and learning curve, from the pages that its commands wrote.

make banking-seeds
(cd examples/banking && pytest-finetune curve --set split.dev=0.2 --html > curve.html)
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
    """Write `recipe.png` and `curve.png` beside this file."""
    with Browser() as browser:
        for name, page, part in (
            ("recipe", project / "finetune-record" / "report.html", "section:has(> h3[id$='-recipe'])"),
            ("curve", project / "curve.html", "main"),
        ):
            tab = browser.open(page, WIDTH, 1000)
            picture = HERE / f"{name}.png"
            picture.write_bytes(tab.picture_of(part))
            tab.close()
            print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
