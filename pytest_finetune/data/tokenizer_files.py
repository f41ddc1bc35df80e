"""What the files of a model's folder say of its tokenizer, read as transformers reads them and without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import JsonTree

CONFIG: Final = "tokenizer_config.json"
_SPECIAL: Final = "special_tokens_map.json"


class NoTokenizer(FinetuneError, ValueError):
    """The folder holds no tokenizer that can be read without transformers."""


def tokenizer_config(folder: Path) -> JsonTree:
    """Return the configuration; older folders name their special tokens in a file of their own. Raises NoTokenizer."""
    config = read_tree(folder / CONFIG)
    return config if "added_tokens_decoder" in config else {**config, **read_tree(folder / _SPECIAL)}


def chat_templates(folder: Path, config: JsonTree) -> dict[str, str]:
    """Return the chat templates by name. Raises NoTokenizer.

    Files of their own stand for all that the configuration holds.
    """
    files = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    found = {file.stem: _text(file) for file in files}
    if (file := folder / "chat_template.jinja").is_file():
        return {"default": _text(file), **found}
    given = config.get("chat_template") or read_tree(folder / "chat_template.json").get("chat_template")
    if isinstance(given, str):
        return {"default": given, **found}
    return {one["name"]: one["template"] for one in given or ()} | found


def read_tree(file: Path) -> JsonTree:
    """Return the mapping that a JSON file holds, an empty one where there is no such file. Raises NoTokenizer."""
    if not file.is_file():
        return {}
    try:
        loaded = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise NoTokenizer(f"{file} is not readable JSON ({error})") from None
    return loaded if isinstance(loaded, dict) else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NoTokenizer(f"{file} is not in UTF-8 ({error}): save it as UTF-8") from None
