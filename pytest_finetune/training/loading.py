"""Let transformers load a part of the base, and read what it says of it: nothing is filled in or left out unseen."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig

from pytest_finetune.fingerprint import own_quantization
from pytest_finetune.training.base import BaseSource, check_folder
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    import torch

    from pytest_finetune.fingerprint import OwnQuantization

# What transformers raises for files, settings and packages that do not go together.
_REFUSALS: Final = (
    OSError,
    ValueError,
    ImportError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    StrictDataclassError,
)
_CONVERSION: Final = "issues during automatic conversion of the weights"
_ATTENTION: Final = re.compile(
    r"attention implementation|attn_implementation|(?i:flash.?attention|flex_attention)"
)
_NO_SDPA: Final = "torch.nn.functional.scaled_dot_product_attention"
# Said of settings that are not used here, and of what was asked for.
_NOISE: Final = re.compile(r"LOAD REPORT|generation flags|[Dd]equantiz|You passed `quantization_config`")
_SHOWN: Final = 600
_NO_THREADS: Final = "HF_DEACTIVATE_ASYNC_LOAD"


def from_pretrained(kind: Any, source: BaseSource, **settings: object) -> Any:
    """Call `kind.from_pretrained` for the base; TrainingError with what was said when it cannot be loaded."""
    if source.local:
        check_folder(Path(source.name), trust_remote_code=source.trust_remote_code)
        settings["local_files_only"] = True
    try:
        with _in_turn() if settings.get("quantization_config") is not None else contextlib.nullcontext():
            return kind.from_pretrained(
                source.name,
                revision=source.revision or "main",
                trust_remote_code=source.trust_remote_code,
                **settings,
            )
    except Exception as error:
        if not _refuses(error):
            raise
        part = "its tokenizer's files" if kind is transformers.AutoTokenizer else "its config.json"
        raise TrainingError(_cannot_load(source, error, part)) from error


@contextlib.contextmanager
def _in_turn() -> Iterator[None]:
    """Let transformers read one tensor after the other while it quantises, as its later releases do by themselves.

    Earlier ones read ahead in four threads, and what lies on the card unquantised meanwhile is a race: the memory that
    the allocator keeps of it differs by a third from load to load, and no plan can tell it.
    """
    before = os.environ.get(_NO_THREADS)
    os.environ[_NO_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_THREADS]
        else:
            os.environ[_NO_THREADS] = before


def with_attention(kind: Any, source: BaseSource, **settings: object) -> Any:
    """Call `from_pretrained` with the attention that was asked for, else sdpa, else (where there is none) eager."""
    try:
        return from_pretrained(kind, source, attn_implementation=source.attention or "sdpa", **settings)
    except TrainingError as error:
        if source.attention is not None or _NO_SDPA not in str(error):
            raise
        return from_pretrained(kind, source, attn_implementation="eager", **settings)


def _refuses(error: Exception) -> bool:
    """Tell whether an error speaks of the base: memory that runs out, or a fault of the code, is another story.

    tokenizers raises a bare Exception for a file that it cannot read.
    """
    return (
        isinstance(error, _REFUSALS)
        or type(error) is Exception
        or (isinstance(error, RuntimeError) and _CONVERSION in str(error))
    )


def _cannot_load(source: BaseSource, error: Exception, part: str = "its config.json") -> str:
    reason = " ".join(str(error).split())[:_SHOWN]
    if source.attention is not None and _ATTENTION.search(reason):
        return (
            f"base model {source.name!r} cannot be loaded with attn_implementation: {source.attention}: "
            f"{reason.partition('. ')[0]}\n"
            "  leave it out: what the architecture can do is chosen then (sdpa, else eager)"
        )
    if _in_generation_settings(error):
        reason = f"its generation_config.json holds what transformers refuses: {reason}"
    if reason.startswith("Unrecognized configuration class"):
        reason = "transformers knows no causal language model of its architecture" + _named_class(reason)
    if isinstance(error, KeyError | TypeError | AttributeError):
        reason = f"transformers can make nothing of {part} ({type(error).__name__}: {reason})"
    hint = ""
    if "trust_remote_code" in reason:
        hint = "\n  it needs code from its repository: read that code, then write trust_remote_code: true"
    return f"base model {source.name!r} cannot be loaded: {reason}{hint}"


def _in_generation_settings(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        Path(frame.filename).parts[-2:] == ("generation", "configuration_utils.py") for frame in frames
    )


def _named_class(reason: str) -> str:
    found = re.search(r"\.(\w+)'>", reason)
    return f" ({found[1]})" if found else ""


def stored_quantization(source: BaseSource) -> OwnQuantization | None:
    """Return the quantisation that the base itself is stored in."""
    return own_quantization(from_pretrained(_RawConfig, source))


class _RawConfig:
    """The configuration as it is written, before an architecture makes something of it."""

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool, **settings: Any) -> dict[str, Any]:
        return dict(transformers.PretrainedConfig.get_config_dict(name, **settings)[0])


def quantization_settings(
    source: BaseSource, own: OwnQuantization | None, dtype: torch.dtype
) -> dict[str, object]:
    """Return what transformers is told of the quantisation: nothing of one that the base brings and keeps.

    An argument of None would make it forget the base's own. Raises TrainingError when the two contradict each other.
    """
    if own is not None:
        trouble = own.contradicts(source.quantization)
        if trouble:
            raise TrainingError(f"base model {source.name!r} {trouble}")
        if own.dequantised is None:
            return {}
        try:
            kind = getattr(transformers, own.dequantised)
            return {"quantization_config": kind.from_dict({**own.settings, "dequantize": True})}
        except _REFUSALS as error:
            raise TrainingError(_cannot_load(source, error)) from error
    match source.quantization:
        case "nf4":
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        case "int8":
            config = BitsAndBytesConfig(load_in_8bit=True)
        case _:
            return {}
    return {"quantization_config": config}


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Collect what transformers warns of in the block, which `surroundings` silences; its loading report is left out.

    That report says in a table what `match_of` reads.
    """
    said: list[str] = []
    listener = _Listener(said)
    logger = logging.getLogger("transformers")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [listener], False
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default", UserWarning)
            yield said
        told = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
        said += [text[:_SHOWN] for text in told if not _NOISE.search(text)]
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if not _NOISE.search(text) and text not in self._said:
            self._said.append(text[:_SHOWN])
