"""Run a converter of llama.cpp, and tell it how a tokenizer splits where it does not know that tokenizer.

A script of its own: ``converting.py CONVERTER PRE WORDS...``. The converter knows tokenizers by a digest of what they
make of one text, which one that was trained for a task is not among. How it splits can be read from its file all the
same; PRE is the name that llama.cpp has for that, or nothing.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any


def main(converter: Path, pre: str, words: list[str]) -> None:
    """Run the converter as the program that it is."""
    sys.argv = [str(converter), *words]
    sys.path.insert(0, str(converter.parent))
    sys.path.insert(1, str(converter.parent / "gguf-py"))
    if pre and (converter.parent / "conversion").is_dir():
        _name_unknown(pre)
    runpy.run_path(str(converter), run_name="__main__")


def _name_unknown(pre: str) -> None:
    TextModel = importlib.import_module("conversion.base").TextModel  # noqa: N806
    known = TextModel.get_vocab_base_pre

    def named(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            return pre

    TextModel.get_vocab_base_pre = named


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
