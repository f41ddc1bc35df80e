"""The one base of every error that is the user's to mend, and the name of the extra that brings a missing package."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

# Every package that the install without extras leaves out, as it is imported, and the extra that brings it.
_EXTRAS: Final = {
    **dict.fromkeys(("accelerate", "bitsandbytes", "datasets", "peft", "pyarrow", "safetensors"), "train"),
    **dict.fromkeys(("huggingface_hub", "tokenizers", "torch", "transformers", "trl"), "train"),
    **dict.fromkeys(("fsspec", "s3fs"), "remote"),
    "argcomplete": "completion",
    "llguidance": "constrain",
    "mlflow": "mlflow",
    "model_signing": "sign",
    "optuna": "search",
    "pynvml": "nvidia",
    "submitit": "submitit",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "zstandard": "data",
}


class FinetuneError(Exception):
    """The message is complete and for the user: a failed test or a command shows it without a traceback."""


def install(extra: str) -> str:
    """Return the command that brings what an extra names: ``pip install 'pytest-finetune[train]'``."""
    return f"pip install 'pytest-finetune[{extra}]'"


def lacking(*packages: str) -> str | None:
    """Return which of the packages is not installed, and the command that brings it; None when all are there."""
    absent = next((package for package in packages if find_spec(package) is None), None)
    return absent and f"{absent}, which is not installed: {install(_EXTRAS[absent])}"


def for_user(error: Exception) -> FinetuneError | None:
    """Return what the user is to read: an error of ours, or what a failed import lacks; None for any other fault."""
    if isinstance(error, FinetuneError):
        return error
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in _EXTRAS:
        return None
    return FinetuneError(f"this needs {package}, which is not installed: {install(_EXTRAS[package])}")
