"""GGUF files, made once and kept in the store: the model in a whole form, quantised, and an adapter of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_finetune.answering.runtimes.gguf import convertible
from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, Converted
from pytest_finetune.answering.runtimes.gguf.reading import read_header
from pytest_finetune.answering.runtimes.gguf.splitting import splitting_of
from pytest_finetune.answering.runtimes.gguf.tools import LORA_CONVERTER, QUANTIZE, Tools, convert, run_tool
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.experiment.runtimes import WHOLE_FORMS
from pytest_finetune.fingerprint import Key, adapter_digest
from pytest_finetune.store import StoreError
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.wording import counted, listed, size
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.runtimes.merged import ModelFolders
    from pytest_finetune.experiment import GgufSettings
    from pytest_finetune.store import Entry, Store

GGUF_SCHEMA: Final = 1
"""Raise it when our own code makes another file of the same model with the same tools."""

KIND: Final = "gguf"
FILE: Final = "model.gguf"
ADAPTER_FILE: Final = "adapter.gguf"

PROOF: Final = "proof"
Prove = Callable[[Converted], ConversionProof]
"""Prove a file against what it was converted from. Raises AnsweringError."""

_FORMS: Final = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class GgufFiles(Protocol):
    """Where the files lie that a runtime serves; for None those of the base. Each raises AnsweringError."""

    def file(self, adapter: Path | None) -> Path:
        """Return the file of a model."""
        ...

    def adapter_file(self, adapter: Path | None) -> Path | None:
        """Return the file of the adapter that the server adds; None where there is none to add."""
        ...

    def files(self, adapter: Path | None) -> Mapping[str, Path]:
        """Return all that is served of a model, by the names under which it is shipped."""
        ...

    def facts(self, adapter: Path | None) -> JsonTree:
        """Return what the record holds of the file that answered for a model."""
        ...


class GgufProducts:
    """The files that a runtime serves, each a step of the store: verified on every read, never seen half-written.

    `folders` makes the models that are converted, and `prove` holds a file in its whole form against the model that it
    was made of: one that is not that model is not kept. With ``adapter: lora`` the model is the base alone, and
    `adapter_file` is what the server adds to it, proved beside it. What was made before it was proved is made again.
    """

    def __init__(
        self,
        store: Store,
        folders: ModelFolders,
        settings: GgufSettings,
        tools: Callable[[], Tools],
        prove: Prove | None = None,
    ) -> None:
        self._store = store
        self._folders = folders
        self._settings = settings
        self._tools = tools
        self._prove = prove
        self._known: dict[str, Entry] = {}

    def file(self, adapter: Path | None) -> Path:
        """Return the file of the tuned model, or of the base for None. Raises AnsweringError."""
        return self._model(adapter).path / FILE

    def adapter_file(self, adapter: Path | None) -> Path | None:
        """Return the file of the adapter that the server adds; None where there is none to add."""
        added = self._added(adapter)
        return None if added is None else added.path / FILE

    def files(self, adapter: Path | None) -> dict[str, Path]:
        """Return all that is served of a model, by the names under which it is shipped. Raises AnsweringError."""
        added = self.adapter_file(adapter)
        return {FILE: self.file(adapter), **({ADAPTER_FILE: added} if added else {})}

    def facts(self, adapter: Path | None) -> JsonTree:
        """Return what the record holds of the file that answered for a model, and of an adapter's file beside it."""
        entry, added = self._model(adapter), self._added(adapter)
        found = {**entry.about, "sha256": entry.files[FILE].sha256, "bytes": entry.files[FILE].size_bytes}
        says = f"{self._settings.quantization} of {size(found['bytes'])}"
        if added is not None:
            file = added.files[FILE]
            proof = {PROOF: added.about[PROOF]} if PROOF in added.about else {}
            found["adapter_file"] = {"sha256": file.sha256, "bytes": file.size_bytes, **proof}
            says += f"; the adapter beside it in {size(file.size_bytes)}{_proof_words(proof, 'its ')}"
        says += _proof_words(found, "" if added is None else "the base's ")
        says += f"; {_stored(found['tensors'])}"
        return {**found, "adapter": self._settings.adapter, "says": says}

    def _added(self, adapter: Path | None) -> Entry | None:
        return None if adapter is None or self._settings.adapter == "merged" else self._lora(adapter)

    def _model(self, adapter: Path | None) -> Entry:
        model = adapter if self._settings.adapter == "merged" else None
        form = self._settings.quantization
        return self._whole(model, form) if form in WHOLE_FORMS else self._quantised(model, form)

    def _whole(self, model: Path | None, form: str) -> Entry:
        def write(into: Path) -> JsonTree:
            folder = self._folders.folder(model)
            with convertible.named(folder) as named:
                words: list[str | Path] = [named, "--outfile", into, "--outtype", form]
                convert(self._tools().converter, splitting_of(folder), words)
            return self._proved(Converted(into, form, folder))

        return self._made(self._whole_key(model, form), form, write)

    def _whole_key(self, model: Path | None, form: str) -> Key:
        converter = self._tools().converter_digest
        return Key.of(
            {
                "schema": GGUF_SCHEMA,
                "model": self._folders.key(model).value,
                "form": form,
                "converter": converter,
            }
        )

    def _quantised(self, model: Path | None, form: str) -> Entry:
        """Quantise from the form that holds the model's own dtype, so that nothing is rounded twice."""
        tools, whole = self._tools(), _FORMS[self._folders.dtype]
        key = Key.of(
            {
                "schema": GGUF_SCHEMA,
                "whole": self._whole_key(model, whole).value,
                "form": form,
                "quantize": tools.release,
            }
        )

        def write(into: Path) -> JsonTree:
            proved = self._whole(model, whole)
            run_tool(f"{QUANTIZE} of llama.cpp", [tools.quantize, proved.path / FILE, into, form])
            return {PROOF: proved.about[PROOF]} if PROOF in proved.about else {}

        return self._made(key, form, write)

    def _lora(self, adapter: Path) -> Entry:
        if is_whole_model(adapter):
            raise AnsweringError(f"{adapter} is a whole model and no adapter: leave `adapter: lora` out")
        tools = self._tools()
        script = tools.converter.with_name(LORA_CONVERTER)
        if not script.is_file():
            raise AnsweringError(
                f"adapter: lora needs {LORA_CONVERTER}, which is not beside {tools.converter}"
            )
        key = Key.of(
            {
                "schema": GGUF_SCHEMA,
                "base": self._folders.key(None).value,
                "lora": adapter_digest(adapter),
                "converter": tools.converter_digest,
            }
        )

        def write(into: Path) -> JsonTree:
            base = self._folders.folder(None)
            with convertible.scaled(adapter) as folder, convertible.named(base) as named:
                words: list[str | Path] = [folder, "--base", named, "--outfile", into, "--outtype", "f32"]
                convert(script, None, words)
            form = self._settings.quantization
            form = form if form in WHOLE_FORMS else _FORMS[self._folders.dtype]
            return self._proved(Converted(self._whole(None, form).path / FILE, form, base, adapter, into))

        return self._made(key, "f32", write)

    def _proved(self, converted: Converted) -> JsonTree:
        return {} if self._prove is None else {PROOF: self._prove(converted).as_json()}

    def _made(self, key: Key, form: str, write: Callable[[Path], JsonTree]) -> Entry:
        if key.value in self._known:
            return self._known[key.value]
        about: dict[str, object] = {"quantization": form, "converter": self._tools().release}

        def fill(folder: Path) -> None:
            about.update(write(folder / FILE))
            about["tensors"] = dict(read_header(folder / FILE).tensors)

        try:
            with self._store.lock(KIND, key, lambda _: None):
                entry = self._store.read(KIND, key)
                if entry is None or (self._prove is not None and PROOF not in entry.about):
                    entry = self._store.commit(KIND, key, fill, about, replacing=entry is not None)
        except StoreError as error:
            raise AnsweringError(f"the GGUF file cannot be kept: {error}") from None
        return self._known.setdefault(key.value, entry)


def _proof_words(about: Mapping[str, Any], whose: str = "") -> str:
    return f"; {whose}{ConversionProof.of(about[PROOF]).line}" if PROOF in about else ""


def _stored(tensors: Mapping[str, Any]) -> str:
    """Say how many tensors are stored how: small ones fall back to another quantisation than the one named."""
    kinds = sorted(tensors, key=lambda kind: (-tensors[kind], kind))
    return listed([f"{counted(tensors[kind], 'tensor')} {kind}" for kind in kinds])
