"""The experiment file: YAML in, one frozen `Experiment` out."""

from pytest_finetune.experiment.reading import load_experiment, parse_set
from pytest_finetune.experiment.records import (
    DEFAULT_TEMPLATE,
    CharterText,
    DecisionDefaults,
    DriftSettings,
    Experiment,
    ExperimentError,
    Generation,
    Launcher,
    Lora,
    OutsideArm,
    Paths,
    Prompt,
    Replay,
    Training,
    contained,
    is_hub_id,
    schema,
)
from pytest_finetune.experiment.runtimes import TRANSFORMERS, MergedSettings, RuntimeSettings, ServerSettings

__all__ = [
    "DEFAULT_TEMPLATE",
    "TRANSFORMERS",
    "CharterText",
    "DecisionDefaults",
    "DriftSettings",
    "Experiment",
    "ExperimentError",
    "Generation",
    "Launcher",
    "Lora",
    "MergedSettings",
    "OutsideArm",
    "Paths",
    "Prompt",
    "Replay",
    "RuntimeSettings",
    "ServerSettings",
    "Training",
    "contained",
    "is_hub_id",
    "load_experiment",
    "parse_set",
    "schema",
]
