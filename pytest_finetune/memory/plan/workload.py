"""What is planned: one training step, described without an object of torch, so that it can be a key and travel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_finetune.wording import size
from pytest_finetune.yamlfile import Json, JsonTree

TRL_STEP: Final = "pytest_finetune.memory.tracer.steps:TrlStep"
PLAIN_STEP: Final = "pytest_finetune.memory.tracer.steps:PlainStep"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The PEFT adapter; `dtype` is what its weights are kept in while training."""

    rank: int = 8
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    dora: bool = False
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Workload:
    """One optimizer step as the accelerator will run it.

    `config` is the model's ``config.json``; `layers` cuts the model to so many layers. `tokens` is the
    padded length of the longest batch; `autocast` the compute dtype under autocast, or None.

    `attention` is ``flash``, ``efficient`` (sdpa's kernels: an architecture without sdpa is traced as eager),
    ``flash_only`` (FlashAttention's own package) or ``eager``; `masked` says that the batch is padded, which
    costs an additive mask and rules flash out. `step` names the class that runs the trainer's step
    (``module:Class``, see `pytest_finetune.memory.tracer.steps`); `keeps_output` says that it holds the model's
    output until the step ends. It is the step of one of `ranks` processes that share one model out among them.

    `loading` is how the weights get to the card (see `pytest_finetune.memory.tracer.loading`); `kbit_upcast` that
    `prepare_model_for_kbit_training` ran; `rotary_product` that the model's first product is that of its
    rotary embedding, as in older transformers, so that the cuBLAS workspace lies before the first layer.
    """

    config: Json = field(hash=False)
    tokens: int
    batch: int = 1
    accumulation: int = 1
    dtype: str = "bfloat16"
    autocast: str | None = "bfloat16"
    quantization: str = "none"
    double_quant: bool = True
    adapter: Adapter | None = field(default_factory=Adapter)
    checkpointing: bool = False
    attention: str = "flash"
    masked: bool = False
    optimizer: str = "adamw_torch"
    max_grad_norm: float = 1.0
    kbit_upcast: bool = False
    loading: str = "streamed"
    rotary_product: bool = False
    keeps_output: bool = False
    step: str = TRL_STEP
    layers: int | None = None
    trust_remote_code: bool = False
    expandable_segments: bool = False
    ranks: int = 1

    def changed(self, **changes: Any) -> Workload:
        """Return the workload with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def as_json(self) -> JsonTree:
        """Return the JSON tree that `from_json` reads back; it is also what the plan is stored under."""
        tree = dataclasses.asdict(self)
        if self.ranks == 1:
            del tree["ranks"]  # came later: plans that were stored before are found again
        return tree

    @classmethod
    def from_json(cls, tree: Json) -> Workload:
        """Read what `as_json` wrote, after a journey through JSON."""
        adapter = tree.get("adapter")
        if adapter is not None:
            targets = adapter["targets"]
            adapter = Adapter(
                **{**adapter, "targets": targets if isinstance(targets, str) else tuple(targets)}
            )
        return cls(**{**tree, "adapter": adapter})

    @property
    def depth(self) -> int:
        """Return how many layers the traced model has."""
        return self.layers or layer_count(self.config)


def text_config(config: Json) -> Json:
    """Return the language model's part of a configuration (multimodal models nest it)."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def layer_count(config: Json) -> int:
    """Return the number of layers that a configuration names, whatever its architecture calls them."""
    tree = text_config(config)
    for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        if isinstance(tree.get(key), int):
            return int(tree[key])
    # Some hybrids only list the kinds of their layers.
    kinds = tree.get("layers_block_type") or tree.get("layer_types") or ()
    return len(kinds)


def each_process(processes: int, trainable: int, *, shared: bool) -> Iterator[str]:
    """Say whose plan it is when several processes train `trainable` parameters together, and what it leaves out."""
    if shared:
        yield (
            f"planned for each of {processes} processes, a card each, that share one model out (FSDP 2): weights, "
            "gradients and optimizer states are divided, activations are not; what is gathered follows from torch's "
            "code and was not measured on cards"
        )
    elif processes > 1:
        yield (
            f"planned for each of {processes} processes, a card each; the copy of the gradients that they exchange "
            f"({size(4 * trainable)} in float32) comes on top"
        )
