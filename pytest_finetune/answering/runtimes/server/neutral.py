"""The decision's decoding in the words of llama.cpp and of what is built on it, everything else at rest.

What is left open there is filled in: by a server from the model's folder, by Ollama with penalties of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.experiment import Generation


class Setting(NamedTuple):
    """One setting at the value where it changes nothing, and its names; None where there is none.

    `request` names it in a request, `modelfile` in a Modelfile of Ollama, `flag` on llama-server's command line.
    """

    idle: float
    request: str
    modelfile: str | None
    flag: str | None


SETTINGS: Final = (
    Setting(0, "temperature", "temperature", "temp"),
    Setting(1.0, "top_p", "top_p", "top-p"),
    Setting(0, "top_k", "top_k", "top-k"),
    Setting(0.0, "min_p", "min_p", "min-p"),
    Setting(1.0, "typical_p", None, None),
    Setting(1.0, "repeat_penalty", "repeat_penalty", "repeat-penalty"),
    Setting(0.0, "presence_penalty", "presence_penalty", "presence-penalty"),
    Setting(0.0, "frequency_penalty", "frequency_penalty", "frequency-penalty"),
)


def as_request(generation: Generation) -> JsonTree:
    """Return the settings as parameters of a request."""
    return {one.request: _value(one, generation) for one in SETTINGS}


def as_modelfile(generation: Generation) -> JsonTree:
    """Return the settings as parameters of a Modelfile, with the length and the seed, which stand there too."""
    told = {one.modelfile: _value(one, generation) for one in SETTINGS if one.modelfile is not None}
    return {"num_predict": generation.max_new_tokens, **told, "seed": generation.seed}


def as_flags(generation: Generation) -> str:
    """Return the settings as flags of llama-server.

    >>> from pytest_finetune.experiment import Generation
    >>> as_flags(Generation(max_new_tokens=48))[:32]
    '--temp 0 --top-p 1 --top-k 0 --m'
    """
    told = {one.flag: _value(one, generation) for one in SETTINGS if one.flag is not None}
    told["predict"] = generation.max_new_tokens
    return " ".join(f"--{name} {value:g}" for name, value in told.items())


def _value(setting: Setting, generation: Generation) -> float:
    if not generation.do_sample:
        return setting.idle
    return {"temperature": generation.temperature, "top_p": generation.top_p}.get(
        setting.request, setting.idle
    )
