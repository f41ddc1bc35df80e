"""Take the pictures of a report: three widths, both themes, and the one in the README.

python -m docs.images.take example_project/finetune-record/report.html [FOLDER]

Without FOLDER only `docs/images/report.png` is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.chromium import Browser

README = Path(__file__).with_name("report.png")


def main(page: Path, folder: Path | None) -> None:
    """Write the README's picture, and in `folder` the whole page six times."""
    with Browser() as browser:
        tab = browser.open(page, 1280, 1000)
        README.write_bytes(tab.screenshot())
        print(README)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for width in (380, 900, 1600):
            for theme in ("light", "dark"):
                tab = browser.open(page, width, 1200, dark=theme == "dark")
                picture = folder / f"report-{width}-{theme}.png"
                picture.write_bytes(tab.screenshot(whole=True))
                tab.close()
                print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
