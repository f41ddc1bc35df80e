"""What a training keeps: an adapter for its base, or a whole model; which of both a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

WHOLE_MODEL: Final = "model.safetensors"
MODEL_CONFIG: Final = "config.json"
ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
PICKLES: Final = (".bin", ".pt", ".pth", ".pkl")
"""How files end that can run code when they are loaded, and never are."""


def is_whole_model(folder: Path) -> bool:
    """Tell whether the folder is a model of its own (``peft_method: full``), to be loaded in the base's place."""
    return (folder / WHOLE_MODEL).is_file() and not (folder / ADAPTER_CONFIG).exists()


def missing_file(folder: Path, method: str) -> str | None:
    """Name the file that what `method` trains must have and the folder has not, None when all is there."""
    needed = (WHOLE_MODEL, MODEL_CONFIG) if method == "full" else (ADAPTER, ADAPTER_CONFIG)
    return next((name for name in needed if not (folder / name).is_file()), None)
