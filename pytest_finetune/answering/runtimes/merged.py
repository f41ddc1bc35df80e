"""Answer with the model that would be shipped: the base dequantised, the adapter merged, in the shipped dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes import merging
from pytest_finetune.answering.runtimes.merging import base_dtype
from pytest_finetune.answering.runtimes.proof import Proof, RowsOf, any_rows
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.fingerprint import Key, adapter_digest, base_digest, package_versions
from pytest_finetune.store import StoreError
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.experiment import Generation
    from pytest_finetune.store import Store
    from pytest_finetune.training.base import BaseSource

MERGE_SCHEMA: Final = 1
"""Raise it when our own code merges the same adapter into another model."""

MODELS: Final = "models"
PROOF: Final = "proof"


class ModelFolders:
    """Whole models in folders, made once and kept in the store: what a server can serve."""

    def __init__(
        self,
        store: Store,
        source: BaseSource,
        base: Path,
        device: str,
        dtype: str = "auto",
        rows: RowsOf = any_rows,
    ) -> None:
        """`source` says how the base is loaded, `base` is the folder in which it lies; `rows` prove each model."""
        self._store = store
        self.source = source
        self._base = base
        self._device = device
        self._asked_dtype = dtype
        self._rows = rows
        self._known: dict[Path | None, Path] = {}
        self._proofs: dict[Path | None, Proof] = {}

    @property
    def dtype(self) -> str:
        """The dtype of the models: the one asked for, or that of the base's own files."""
        return base_dtype(self._base) if self._asked_dtype == "auto" else self._asked_dtype

    def folder(self, adapter: Path | None) -> Path:
        """Return the folder of the tuned model, or of the base for None. Raises AnsweringError."""
        if adapter not in self._known:
            self._known[adapter] = self._find(adapter)
        return self._known[adapter]

    def _find(self, adapter: Path | None) -> Path:
        whole = self._base if adapter is None else adapter if is_whole_model(adapter) else None
        quantised = self.source.quantization != "none" and whole == self._base
        if whole is not None and not quantised and base_dtype(whole) == self.dtype:
            return whole
        return self._made(adapter)

    def _made(self, adapter: Path | None) -> Path:
        key = self.key(adapter)

        about: dict[str, object] = {
            "base": self.source.name,
            "dtype": self.dtype,
            "adapter": str(adapter) if adapter else None,
        }

        def write(folder: Path) -> None:
            source, base, merged = self.source, self._base, adapter
            if adapter is not None and is_whole_model(adapter):
                source = dataclasses.replace(source, name=str(adapter), revision=None, quantization="none")
                base, merged = adapter, None
            proof = merging.merge(source, base, merged, folder, self.dtype, self._device, self._rows)
            about[PROOF] = proof.as_json()

        try:
            with self._store.lock(MODELS, key, lambda _: None):
                entry = self._store.read(MODELS, key)
                if entry is None or PROOF not in entry.about:  # made before merges were proved
                    entry = self._store.commit(MODELS, key, write, about, replacing=entry is not None)
        except StoreError as error:
            raise AnsweringError(f"the merged model cannot be kept: {error}") from None
        self._proofs[adapter] = Proof.of(entry.about[PROOF])
        return entry.path

    def proof(self, adapter: Path | None) -> Proof | None:
        """Return the proof of a model whose folder was asked for; None for one that lay there and was not made."""
        return self._proofs.get(adapter)

    def stored_proof(self, adapter: Path | None) -> Proof | None:
        """Return the same of a model from which something else was made before, and which was not asked for since."""
        if adapter not in self._proofs:
            entry = self._store.read(MODELS, self.key(adapter))
            if entry is not None and PROOF in entry.about:
                self._proofs[adapter] = Proof.of(entry.about[PROOF])
        return self._proofs.get(adapter)

    def key(self, adapter: Path | None) -> Key:
        """Return the key of the tuned model, or of the base for None, without making it."""
        base = base_digest(self._base, self._store, trust_remote_code=self.source.trust_remote_code)
        return Key.of(
            {
                "schema": MERGE_SCHEMA,
                "base": base.value,
                "quantization": self.source.quantization,
                "adapter": None if adapter is None else adapter_digest(adapter),
                "dtype": self.dtype,
                "environment": package_versions(("torch", "transformers", "peft", "bitsandbytes")),
            }
        )


class MergedRuntime:
    """The merged model in memory, answered by transformers; the base is the dequantised base itself."""

    def __init__(self, folders: ModelFolders, device: str) -> None:
        self._folders = folders
        self._device = device
        self._loaded: tuple[Path, TransformersRuntime] | None = None

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order. Raises AnsweringError."""
        return self._runtime(adapter).answer(prompts, generation, None)

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return what the answers' key must hold besides the base, the adapter and the packages."""
        return {"merged": MERGE_SCHEMA, "dtype": self._folders.dtype}

    def proof(self, adapter: Path | None) -> Proof | None:
        """Return the proof that the merged model answers as the adapter on its base; None where nothing was merged."""
        return self._folders.proof(adapter)

    @property
    def model(self) -> PreTrainedModel:
        """The base model, in eval mode."""
        return self._runtime(None).model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return self._runtime(None).tokenizer

    def release(self) -> None:
        """Give the model's memory back; the next answer loads it again."""
        if self._loaded is not None:
            self._loaded[1].release()
            self._loaded = None

    def _runtime(self, adapter: Path | None) -> TransformersRuntime:
        folder = self._folders.folder(adapter)
        if self._loaded is None or self._loaded[0] != folder:
            self.release()
            runtime = TransformersRuntime(
                str(folder),
                device=self._device,
                dtype=self._folders.dtype,
                trust_remote_code=self._folders.source.trust_remote_code,
                attention=self._folders.source.attention,
            )
            self._loaded = (folder, runtime)
        return self._loaded[1]
