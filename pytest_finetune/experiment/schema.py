"""The JSON Schema of the experiment file, which editors read too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of the experiment file."""
    text = (Path(__file__).parent / "experiment.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]
