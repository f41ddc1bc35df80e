"""Put an adapter on a loaded base and take it off again; refuse one that loads code or does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.fingerprint import importing_keys

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"


def attach(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return the PEFT model of the adapter on `model`, whose linear modules are replaced in place.

    `detach` gives the base back. Raises AnsweringError; the model is then not to be used any more, as it may
    be half changed.
    """
    from peft import PeftModel

    check_adapter(folder)
    try:
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise AnsweringError(
            f"adapter {str(folder)!r} does not fit the base model: {reason[:600]}"
        ) from error
    _check_complete(wrapped, folder)
    return wrapped.eval()


def detach(wrapped: PeftModel) -> PreTrainedModel:
    """Return the base model with its own modules, bit for bit as before."""
    return wrapped.unload()


def _check_complete(wrapped: PeftModel, folder: Path) -> None:
    """Raise AnsweringError for a weight that the file lacks: PEFT would go on with a fresh, untrained one."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        stored = set(file.keys())
    missing = sorted(set(get_peft_model_state_dict(wrapped, save_embedding_layers=False)) - stored)
    if missing:
        raise AnsweringError(
            f"adapter {str(folder)!r} does not fit the base model: {len(missing)} of its weights are not in "
            f"the file ({missing[0]})"
        )


def check_adapter(folder: Path) -> None:
    """Raise AnsweringError unless the folder holds an adapter in safetensors that loads no code."""
    name = str(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for path in folder.glob("adapter_model.*")) if folder.is_dir() else []
        found = (
            f"only {', '.join(pickled)}, which can run code when loaded"
            if pickled
            else "nothing of that name"
        )
        raise AnsweringError(f"adapter {name!r}: no {WEIGHTS}, {found}: refused")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnsweringError(f"adapter {name!r}: {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise AnsweringError(f"adapter {name!r}: {CONFIG} is no mapping")
    _refuse_code(f"adapter {name!r}: {CONFIG}", config, "PEFT")


def check_whole_model(folder: Path) -> None:
    """Raise AnsweringError when the configuration of a model that was trained in full would load code."""
    for file in sorted(folder.glob("*config.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AnsweringError(f"model {str(folder)!r}: {file.name} cannot be read: {error}") from None
        _refuse_code(f"model {str(folder)!r}: {file.name}", config, "transformers")


def _refuse_code(where: str, config: object, library: str) -> None:
    keys = importing_keys(config)
    if keys:
        named = ", ".join(map(repr, keys))
        raise AnsweringError(
            f"{where} has the key {named}, which makes {library} import code: refused\n"
            "  what is trained on a standard model does not need it: remove the key"
        )
