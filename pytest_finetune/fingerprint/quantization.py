"""How a base model is stored by itself: the quantisation that its configuration names, and what can be made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from pytest_finetune.yamlfile import Json

# What transformers reads into plain weights when it is asked to, with the class of its configuration.
_DEQUANTISED: Final = {
    "fp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
    "compressed-tensors": "CompressedTensorsConfig",
}
_PACKAGES: Final = {"compressed-tensors": "compressed_tensors"}
OWN_KEYS: Final = ("quantization_config", "compression_config")
_BITSANDBYTES: Final = {"bitsandbytes 4-bit": "nf4", "bitsandbytes 8-bit": "int8"}
_WRITTEN: Final = {"nf4": "peft_method: qlora", "int8": "quantization: int8 with peft_method: lora"}


@dataclass(frozen=True, slots=True)
class OwnQuantization:
    """The quantisation that a base was stored in: its name, and what its configuration says of it."""

    name: str
    settings: Json

    @property
    def dequantised(self) -> str | None:
        """The class of transformers that reads it into plain weights, None for one that stays as it is."""
        return _DEQUANTISED.get(self.name)

    @property
    def loaded(self) -> str | None:
        """How the base lies in memory, in the words of the key `quantization`; None where no training is known."""
        return "none" if self.dequantised else _BITSANDBYTES.get(self.name)

    @property
    def double(self) -> bool:
        """Tell whether the scales of a 4-bit base are quantised too."""
        return bool(self.settings.get("bnb_4bit_use_double_quant"))

    def contradicts(self, quantization: str) -> str | None:
        """Say why a base that is stored so cannot be loaded as the experiment has it; None where it can."""
        if quantization in ("none", self.loaded):
            return None
        return f"is stored in {self.name} already, and cannot be stored in {quantization} on top of it"

    def untrainable(self, quantization: str, method: str) -> str | None:
        """Say why `method` cannot train on a base that is stored so, and what to write; None where it can."""
        plain = "name the model that it was made from, which is not quantised"
        package = _PACKAGES.get(self.name)
        if package is not None and find_spec(package) is None:
            missing = f"and the package that reads it is not installed: pip install {self.name}"
            return f"is stored in {self.name}, {missing}, or {plain}"
        if self.loaded is None:
            return (
                f"is stored in {self.name}, on which nothing is trained here: {plain} (peft_method: qlora stores that "
                "in 4 bits)"
            )
        if self.loaded == quantization:
            return None
        if self.loaded == "none":
            written = "peft_method: lora, which reads it into plain weights"
            return f"{self.contradicts(quantization)}: write {written}, or {plain}"
        written = _WRITTEN[self.loaded]
        if quantization != "none":
            return f"{self.contradicts(quantization)}: write {written}, or {plain}"
        needs = "every weight as a plain number" if method == "full" else "the base in plain weights"
        return (
            f"is stored in {self.name}, and peft_method: {method} needs {needs}: write {written}, which takes the base "
            f"as it is stored, or {plain}"
        )


def own_quantization(config: Json) -> OwnQuantization | None:
    """Return the quantisation that a model's configuration names, None for a model in plain weights."""
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, Mapping) else [config]
    for part in parts:
        for key in OWN_KEYS:
            settings = part.get(key)
            if isinstance(settings, Mapping) and settings:
                return OwnQuantization(_name(settings), settings)
    return None


def _name(settings: Json) -> str:
    for bits, keys in ((4, ("load_in_4bit", "_load_in_4bit")), (8, ("load_in_8bit", "_load_in_8bit"))):
        if any(settings.get(key) for key in keys):
            return f"bitsandbytes {bits}-bit"
    return str(settings.get("quant_method") or "a quantisation without a name")
