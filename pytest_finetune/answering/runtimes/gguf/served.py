"""What a runtime of GGUF files is made of, whichever server answers with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.answering.runtimes.gguf.products import GGUF_SCHEMA
from pytest_finetune.answering.runtimes.server.openai import OpenAIRuntime, not_merged
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.runtimes.gguf.products import GgufFiles
    from pytest_finetune.answering.runtimes.gguf.tools import Tools
    from pytest_finetune.answering.runtimes.proof import Proof
    from pytest_finetune.answering.runtimes.server.checking import RenderingCheck
    from pytest_finetune.answering.runtimes.server.decoding import BaseDecoding
    from pytest_finetune.experiment import GgufSettings
    from pytest_finetune.experiment.runtimes import ServerSettings


@dataclass(frozen=True, slots=True)
class ServedFiles:
    """GGUF files and how they are served.

    `name` is the runtime's, `log` is where its server writes, `base` is what the base's folder says of decoding.
    `check` refuses prompts that the server makes otherwise than the decision reads them, and `proof` gives that of a
    merge.
    """

    name: str
    settings: GgufSettings
    products: GgufFiles
    tools: Callable[[], Tools]
    log: Path
    base: BaseDecoding
    check: RenderingCheck
    proof: Callable[[Path | None], Proof | None] = not_merged

    def identity(self) -> JsonTree:
        """Return what answers hang on besides the model and what is asked: how the file is made and served."""
        settings, tools = self.settings, self.tools()
        return {
            "gguf": GGUF_SCHEMA,
            "quantization": settings.quantization,
            "adapter": settings.adapter,
            "server": settings.server,
            "release": tools.release,
            "converter": tools.converter_digest,
            "version": settings.quantization,
        }

    def asked_at(self, server: ServerSettings) -> OpenAIRuntime:
        """Return what asks a server for the answers of these files."""
        return OpenAIRuntime(
            self.name,
            server,
            self.products.file,
            self.log,
            self.base,
            proof=self.proof,
            check=self.check,
        )
