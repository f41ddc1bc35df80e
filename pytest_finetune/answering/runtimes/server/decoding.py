"""How the decision decodes, in the words of each server.

What a request leaves open, a server fills in from the model's own folder, and then another decoding is judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.neutral import as_request
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.experiment import Generation

SETTINGS: Final = "generation_config.json"

VLLM: Final = "vllm"
"""vLLM, and SGLang, which takes the same words."""
LLAMA: Final = "llama.cpp"
TRANSFORMERS: Final = "transformers"
OLLAMA: Final = "ollama"
UNKNOWN: Final = "unknown"

# What each setting is where it changes nothing: with greedy decoding too, and with sampling only.
_GREEDY: Final[JsonTree] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
}
_SAMPLED: Final[JsonTree] = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0}
_OPENAI: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_VLLM: Final[JsonTree] = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
_OWNERS: Final = {"vllm": VLLM, "sglang": VLLM, "llamacpp": LLAMA}
_CALLED_OTHERWISE: Final = {"repeat_penalty": "repetition_penalty"}
_PROBE_S: Final = 5.0


class BaseDecoding(NamedTuple):
    """What a base model's folder says of decoding: its stop tokens, and the settings that the decision does without."""

    stops: tuple[int, ...] = ()
    sets: Mapping[str, Any] = {}

    def but_for(self, asked: Json) -> BaseDecoding:
        """Leave out what each request sets on purpose."""
        return self._replace(sets={name: value for name, value in self.sets.items() if name not in asked})


NOTHING_SET: Final = BaseDecoding()


def base_decoding(folder: Path, generation: Generation) -> BaseDecoding:
    """Read what a server would fill in from a base model's folder; a folder without settings fills in nothing."""
    own = _read(folder / SETTINGS)
    neutral = {**_GREEDY, **_SAMPLED} if generation.do_sample else _GREEDY
    sets = {name: own[name] for name, idle in neutral.items() if own.get(name) not in (None, idle)}
    stops = own.get("eos_token_id", _read(folder / "config.json").get("eos_token_id"))
    several = stops if isinstance(stops, list) else [stops]
    return BaseDecoding(tuple(stop for stop in several if type(stop) is int), sets)


def _read(file: Path) -> Json:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def kind_of(wire: Wire, owner: object, command: Sequence[str]) -> str:
    """Tell which server answers: by its command, by whom its models belong to, by a page that one of them has."""
    if any(Path(word).name == TRANSFORMERS for word in command[:3]):
        return TRANSFORMERS
    known = _OWNERS.get(str(owner))
    if known is not None:
        return known
    for page, word, kind in (
        ("/props", "default_generation_settings", LLAMA),
        ("/api/version", "version", OLLAMA),
    ):
        try:
            found = wire.get(page, _PROBE_S)
        except WireError:
            continue
        if isinstance(found, Mapping) and word in found:
            return kind
    return UNKNOWN


def requests(kind: str, generation: Generation, stops: Sequence[int], seed: int) -> tuple[JsonTree, ...]:
    """Return the decision's decoding as parameters of a request: in full, in OpenAI's own words, and the least of it.

    A server that refuses one is asked with the next; what it did not take may then come from the model's folder.
    """
    least: JsonTree = {"max_tokens": generation.max_new_tokens, "temperature": 0}
    if generation.do_sample:
        least |= {"temperature": generation.temperature, "top_p": generation.top_p, "seed": seed}
    words = as_request(generation)
    standard = {**{name: words[name] for name in _OPENAI}, "seed": seed, **least}
    if kind == TRANSFORMERS:
        # Settings that are not given here are the model's own; what stands beside them in the request goes before.
        told = {**_GREEDY, **_SAMPLED, "do_sample": generation.do_sample, "eos_token_id": list(stops) or None}
        return {**standard, "generation_config": json.dumps(told)}, standard, least
    spelled = {**(words if kind != VLLM else {}), **(_VLLM if kind != LLAMA else {})}
    stopping = {"stop_token_ids": list(stops)} if stops and kind != LLAMA else {}
    return {**spelled, **standard, **stopping}, standard, least


def not_taken(offered: Sequence[JsonTree], taken: int) -> tuple[str, ...]:
    """Name the settings that a server was asked for and refused."""
    lost = offered[0].keys() - offered[taken].keys()
    return tuple(sorted({_CALLED_OTHERWISE.get(name, name) for name in lost}))


def calls_held(kind: str, sent: Sequence[Prompted], extra: Json) -> int:
    """Count the prompts whose answers a server holds to the schemas of their tools.

    llama.cpp's does so by a grammar, as soon as an answer begins a call, unless it is told that none is to be called.
    """
    if kind != LLAMA or extra.get("tool_choice") == "none":
        return 0
    return sum(bool(one.tools) and not isinstance(one.prompt, str) for one in sent)


def facts(base: BaseDecoding, refused: Sequence[str], held: int = 0) -> JsonTree:
    """Return the record's form; empty where the server was told everything and the base asks for nothing else."""
    told: JsonTree = {"base_sets": dict(base.sets), "refused": list(refused)}
    if held:
        told["calls_held"] = held
    return told if any(told.values()) else {}
