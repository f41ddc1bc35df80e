"""What files tell in a moment of a training that could not be: the base's parts, its modules, the trainer's arguments.

Only what is certain is said: for the built-in trainer, of a base that lies here, before any weight is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.chat import folder_chat
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.data.tokenizer_files import NoTokenizer
from pytest_finetune.experiment.reading import located
from pytest_finetune.experiment.runtimes import GGUF, MERGED, OPENAI, TRANSFORMERS
from pytest_finetune.fingerprint import (
    BaseModelError,
    base_folder,
    cached_snapshot,
    has_tokenizer,
    holds_weights,
    match_of_layers,
    own_quantization,
    weight_tensors,
)
from pytest_finetune.training.base import check_folder
from pytest_finetune.training.given import given_problems
from pytest_finetune.training.request import TrainingError
from pytest_finetune.training.sft_arguments import known_arguments, unknown
from pytest_finetune.wording import nearest

if TYPE_CHECKING:
    from pluggy import HookCaller

    from pytest_finetune.experiment import Experiment
    from pytest_finetune.suite.context import Context
    from pytest_finetune.yamlfile import KeyPath

_BUILT_IN: Final = "finetune-huggingface"
_EMBEDDINGS: Final = ("embed_tokens", "wte", "word_embeddings", "embed_in")
_NO_LINEAR: Final = ("norm", "ln_", "embed", "wte", "wpe", "lm_head", "rotary")


def lacking(context: Context) -> list[str]:
    """Return, each with file, line and key, why the training that was written down cannot be."""
    found = [] if _brought(context.hooks.pytest_finetune_runtime) else [*unknown_runtimes(context.experiment)]
    if not _brought(context.hooks.pytest_finetune_train):
        found += problems(context.experiment)
    return [located(context.experiment, path, text) for path, text in found]


def _brought(hook: HookCaller) -> bool:
    """Tell whether a plugin does this as well: what it needs and knows is its own to say."""
    return any(one.plugin_name != _BUILT_IN for one in hook.get_hookimpls())


def unknown_runtimes(experiment: Experiment) -> Iterator[tuple[KeyPath, str]]:
    """Yield each runtime that is a name alone and none of ours."""
    for number, name in enumerate(experiment.runtimes):
        if name != TRANSFORMERS and name not in experiment.runtime_settings:
            guess = nearest(name.lower(), (TRANSFORMERS, MERGED, OPENAI, GGUF))
            meant = f"did you mean {guess!r}? " if guess else ""
            text = f"found {name!r}, which no plugin brings (pytest_finetune_runtime); {meant}known by name: "
            yield ("runtimes", number), f"{text}{TRANSFORMERS}, {MERGED}"


def to_fetch(experiment: Experiment) -> str:
    """Say that the base is still to be fetched from the hub; empty where it is here, or named like a folder."""
    name = experiment.base_model
    if experiment.local_base() is not None or cached_snapshot(name, experiment.revision) is not None:
        return ""
    beside = experiment.root / Path(name).parent
    if beside != experiment.root and beside.is_dir():
        return ""
    return f"the base {name} is not fetched yet: run pytest-finetune fetch"


def problems(experiment: Experiment) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key that cannot be trained with, and why."""
    if experiment.trained and (trouble := given_problems(experiment)):
        yield ("trained", "adapter"), trouble
    given = experiment.training.sft
    for name, text in unknown(given, known_arguments() if given else ()):
        yield ("training", "sft", name), text
    try:
        folder = base_folder(experiment)
    except BaseModelError:
        return  # not fetched yet
    if not folder.is_dir() or _only_configured(folder):
        return
    try:
        check_folder(folder, trust_remote_code=experiment.trust_remote_code)
    except TrainingError as error:
        yield ("base_model",), str(error)
        return
    own = own_quantization(_json(folder / "config.json"))
    untrainable = own and own.untrainable(experiment.quantization, experiment.peft_method)
    if untrainable:
        yield ("base_model",), f"{experiment.base_model!r} {untrainable}"
    if (match := match_of_layers(folder)) is not None:
        yield ("base_model",), f"{experiment.base_model!r}: {match.trouble}"
        return
    if experiment.prompt.template == CHAT:
        yield from _template(experiment, folder)
    if experiment.trained is None:
        yield from _targets(experiment, folder)


def _only_configured(folder: Path) -> bool:
    """Tell whether the folder holds no more than a configuration, from which a memory plan can be made."""
    return not has_tokenizer(folder) and not holds_weights(folder)


def _template(experiment: Experiment, folder: Path) -> Iterator[tuple[KeyPath, str]]:
    if not _has_template(folder):
        yield (
            ("prompt", "template"),
            f"'chat' needs a chat template, and the tokenizer of {experiment.base_model!r} has none: write a "
            "template with {instruction} and {input}, or take an instruct model",
        )
        return
    try:
        folder_chat(folder, experiment.prompt.chat_template_kwargs, ())
    except NoTokenizer as error:
        yield ("base_model",), str(error)
    except TemplateError as error:
        yield ("prompt", "template"), f"{error}: mend the template in {str(folder)!r}"


def _has_template(folder: Path) -> bool:
    if any(folder.glob("*.jinja")) or any(folder.glob("*chat_template.json")):
        return True
    return bool(_json(folder / "tokenizer_config.json").get("chat_template"))


def _targets(experiment: Experiment, folder: Path) -> Iterator[tuple[KeyPath, str]]:
    """Name target modules that no weight of the base belongs to; PEFT takes a name or its last parts."""
    wanted = experiment.lora.target_modules
    modules = _modules(folder)
    # A regular expression asks for whole names, and experts get other names when they are loaded.
    if isinstance(wanted, str) or experiment.peft_method == "full" or "expert" in " ".join(modules):
        return
    head = next((word for word in wanted if word.rpartition(".")[2] == "lm_head"), None)
    if head is not None:
        yield (
            ("lora", "target_modules"),
            f"found {head!r}, the output head: the loss is computed from the head's own weight, so an adapter on it "
            "would never be trained: leave it out, as all-linear does",
        )
    lacking = [word for word in wanted if word != head and not _matched(word, modules)]
    if modules and lacking:
        last = {name.rpartition(".")[2] for name in modules}
        linear = sorted(name for name in last if not any(part in name for part in _NO_LINEAR))
        guesses = [(word, nearest(word, linear)) for word in lacking]
        words = ", ".join(
            f"{word!r}" + (f" (did you mean {near!r}?)" if near else "") for word, near in guesses
        )
        yield (
            ("lora", "target_modules"),
            f"found {words}, but {experiment.base_model!r} has no such module; it has {', '.join(linear)} "
            "(or all-linear)",
        )
    tied = [word for word in wanted if word.rpartition(".")[2] in _EMBEDDINGS and _matched(word, modules)]
    if tied and _json(folder / "config.json").get("tie_word_embeddings") is True:
        yield (
            ("lora", "target_modules"),
            f"found {tied[0]!r}, which this base also uses as its output layer (tie_word_embeddings): the adapter "
            "changes one of the two alone, so a merged or served model answers otherwise than the one that is judged: "
            "leave it out, as all-linear does",
        )


def _matched(word: str, modules: Sequence[str]) -> bool:
    return any(name == word or name.endswith(f".{word}") or f".{word}." in name for name in modules)


def _modules(folder: Path) -> list[str]:
    """Return the modules that own the base's tensors, by the headers of its files."""
    return sorted({name.rpartition(".")[0] for name in weight_tensors(folder)})


def _json(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
