"""A verified bundle on its way to where others find it: a branch of the Hub, a tracking server of MLflow.

Nothing here decides: what arrives was verified before, and whatever holds another bundle is left as it is.
"""

from __future__ import annotations

from pytest_finetune.publish.parcel import Parcel, Pushed, PushError
from pytest_finetune.publish.target import HubTarget, MlflowTarget, Target, parse

__all__ = ["HubTarget", "MlflowTarget", "Parcel", "PushError", "Pushed", "Target", "parse"]
