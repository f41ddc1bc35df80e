"""``python -m pytest_finetune`` is ``pytest-finetune``."""

from __future__ import annotations

import sys

from pytest_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main())
