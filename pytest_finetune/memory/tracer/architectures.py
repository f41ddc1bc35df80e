"""What single architectures do otherwise than all others, mended on the loaded model: for the plan and the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def auto_class(config: PretrainedConfig) -> Any:
    """Return the class of transformers that makes the model of a configuration.

    Some models that also see are known under that class alone; they answer texts all the same.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = type(config) in AutoModelForImageTextToText._model_mapping
    writes = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForImageTextToText if sees and not writes else AutoModelForCausalLM


def name_backbone(model: PreTrainedModel) -> None:
    """Let `base_model` give the model without its head, which TRL calls apart from the head.

    Llama 4's class names an attribute that only the wrapper with the vision tower has, and gives itself.
    """
    if model.base_model is model and hasattr(model, "model"):
        model.base_model_prefix = "model"
