"""The settings of runtimes in the experiment file (``merged``, ``openai``, ``gguf``), and what contradicts them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from pytest_finetune.experiment.serve_command import command_mistakes, mentions, words_of
from pytest_finetune.wording import nearest, unknown_key
from pytest_finetune.yamlfile import Json, KeyPath

TRANSFORMERS: Final = "transformers"
MERGED: Final = "merged"
OPENAI: Final = "openai"
GGUF: Final = "gguf"
_KINDS: Final = (MERGED, OPENAI, GGUF)

LLAMA: Final = "llama.cpp"
OLLAMA: Final = "ollama"
WHOLE_FORMS: Final = ("f32", "bf16", "f16")
"""Forms of a GGUF that the converter writes by itself; every other one is quantised from one of these."""
QUANTIZATIONS: Final = (
    *WHOLE_FORMS,
    *(
        "q8_0",
        "q6_k",
        "q5_k_m",
        "q5_k_s",
        "q5_1",
        "q5_0",
        "q4_k_m",
        "q4_k_s",
        "q4_1",
        "q4_0",
        "iq4_nl",
        "iq4_xs",
    ),
    *("q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "q2_k"),
)
"""What llama.cpp makes without a matrix of importance, which would need texts of its own to be measured on."""
_OF_GGUF: Final = ("server", "adapter", "timeout_s", "start_timeout_s")

_OWN_PARAMETERS: Final = (
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stream",
    "n",
)
_BARE_ADDRESS: Final = re.compile(r"[\w.-]+:\d+(?:/\S*)?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class MergedSettings:
    """The adapter merged into its base; `dtype` is the one that is shipped, auto that of the base's files."""

    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """An OpenAI-compatible server: one that runs at `url`, or the command `serve` that starts one.

    `model` and `base_model` are the names under which the server knows the tuned and the base model. Without
    `api` the prompts decide: chat messages go to chat, text to completions. With completions, messages are
    sent as the text that the base's chat template makes of them. `timeout_s` is how long an answer may take,
    `start_timeout_s` how long the server may take until it answers at all.
    """

    url: str | None = None
    serve: tuple[str, ...] = ()
    model: str | None = None
    base_model: str | None = None
    api: str | None = None
    concurrency: int = 4
    timeout_s: float = 120.0
    start_timeout_s: float = 600.0
    retries: int = 3
    api_key_env: str | None = None
    extra: Json = field(default_factory=dict)

    @property
    def starts_per_model(self) -> bool:
        """Tell whether the command names the model, so that each model needs a server of its own."""
        return mentions(self.serve, "model")

    @property
    def takes_adapter(self) -> bool:
        """Tell whether the command names base and adapter, so that one server knows both."""
        return mentions(self.serve, "adapter")

    @property
    def knows_two_models(self) -> bool:
        """Tell whether the server has a base and one tuned model, and none for another adapter."""
        return not (self.starts_per_model or self.takes_adapter)


@dataclass(frozen=True, slots=True)
class GgufSettings:
    """A GGUF file as it is shipped, and the server that answers with it: llama.cpp's, or Ollama.

    With `adapter` "merged" the tuned model is one file; with "lora" the base is one, in this quantisation, and the
    adapter another that the server adds to it. `timeout_s` is how long an answer may take, `start_timeout_s` how long
    the server may take until it answers at all.
    """

    quantization: str
    server: str = LLAMA
    adapter: str = MERGED
    timeout_s: float = 600.0
    start_timeout_s: float = 600.0


_OF_MERGED: Final = tuple(one.name for one in fields(MergedSettings))
_OF_OPENAI: Final = tuple(one.name for one in fields(ServerSettings))

RuntimeSettings: TypeAlias = MergedSettings | ServerSettings | GgufSettings


class Mistake(NamedTuple):
    """What is wrong with one entry of ``runtimes``: the keys below it that lead there, and the text."""

    path: tuple[str, ...]
    text: str


class Named(NamedTuple):
    """One entry of ``runtimes``: its name, and its settings; None for a runtime that has none."""

    name: str
    settings: RuntimeSettings | None


def read_runtime(entry: str | Json) -> Named:
    """Read one entry that the schema has accepted; a command written as text is split into words, no shell.

    >>> read_runtime({"openai": {"serve": "serve {model} --port {port}"}}).settings.serve
    ('serve', '{model}', '--port', '{port}')
    """
    if isinstance(entry, str):
        return Named(entry, MergedSettings() if entry == MERGED else None)
    if MERGED in entry:
        return Named(entry.get("name", MERGED), MergedSettings(**(entry[MERGED] or {})))
    if GGUF in entry:
        given = {key: entry[key] for key in _OF_GGUF if key in entry}
        return Named(entry.get("name", GGUF), GgufSettings(entry[GGUF].lower(), **given))
    settings = dict(entry.get(OPENAI) or {})
    serve = settings.get("serve", ())
    settings["serve"] = tuple(words_of(serve))
    return Named(entry.get("name", OPENAI), ServerSettings(**settings))


def as_written(runtime: Named) -> str | Json:
    """Return an entry for the record: every setting with its value; a name alone where there are none."""
    if isinstance(runtime.settings, ServerSettings):
        return {"name": runtime.name, OPENAI: asdict(runtime.settings)}
    if isinstance(runtime.settings, MergedSettings):
        return {"name": runtime.name, MERGED: asdict(runtime.settings)}
    if isinstance(runtime.settings, GgufSettings):
        settings = asdict(runtime.settings)
        return {"name": runtime.name, GGUF: settings.pop("quantization"), **settings}
    return runtime.name


def mistakes(entry: str | Json, *, first: bool) -> Iterator[Mistake]:
    """Yield what contradicts itself in one entry; `first` is where the decision is made."""
    if entry == OPENAI:
        yield Mistake((), "'openai' needs a server: write {openai: {url: ...}} or {openai: {serve: ...}}")
    if entry == GGUF:
        yield Mistake((), "'gguf' needs a quantisation: write {gguf: q4_k_m}")
    if isinstance(entry, str):
        return
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        found = " and ".join(map(repr, kinds)) if kinds else "none"
        yield Mistake((), f"found {found} of 'merged', 'openai' and 'gguf': a runtime is exactly one of them")
        return
    name = entry.get("name", kinds[0])
    if not _NAME.fullmatch(name):
        yield Mistake(("name",), f"found {name!r}: letters, digits, dots, dashes and underscores make a name")
    if name == TRANSFORMERS:
        yield Mistake(("name",), f"{name!r} is the name of the built-in runtime: choose another")
    yield from _gguf_mistakes(entry)
    if kinds == [OPENAI]:
        for mistake in _server_mistakes(entry[OPENAI] or {}, first=first):
            yield Mistake((OPENAI, *mistake.path), mistake.text)


def _gguf_mistakes(entry: Json) -> Iterator[Mistake]:
    if GGUF not in entry:
        kind = MERGED if MERGED in entry else OPENAI
        for key in _OF_GGUF:
            if key in entry:
                where = (
                    f": {kind} has a `{key}` of its own, below it" if kind == OPENAI and "_s" in key else ""
                )
                yield Mistake((key,), f"belongs to a runtime with 'gguf', and this is {kind!r}{where}")
    elif entry[GGUF].lower() not in QUANTIZATIONS:
        yield Mistake((GGUF,), _no_quantization(entry[GGUF]))


def _no_quantization(found: str) -> str:
    known = f"known: {', '.join(QUANTIZATIONS)}"
    if "/" in found or found.lower().endswith(".gguf"):
        return f"found {found!r}: write a quantisation and no file, which is made of the tuned model; {known}"
    guess = quantization_meant(found.lower())
    return f"found {found!r}; did you mean {guess!r}? {known}" if guess else f"found {found!r}, {known}"


def quantization_meant(word: str) -> str | None:
    """Return the quantisation that an unknown word is likely to mean.

    >>> [quantization_meant(word) for word in ("q4", "q4_", "q4km", "int4")]
    ['q4_k_m', 'q4_k_m', 'q4_k_m', None]
    """
    usual = (f"{word}{more}" for more in ("_k_m", "_m", "_k", "_0"))  # of q4, what most people mean
    likely = [one for one in usual if one in QUANTIZATIONS]
    likely += [known for known in QUANTIZATIONS if known.startswith(word)]
    return likely[0] if likely else nearest(word, QUANTIZATIONS)


def unknown_at(path: KeyPath, entry: Json, key: str) -> str | None:
    """Say of a key that an entry of ``runtimes`` does not know where it belongs, or what its kind knows.

    Of a ``server`` that is none of ours, which `key` names then, say how it is reached.
    """
    if path[:1] == ("runtimes",) and path[2:] == ("server",):
        return _other_server(key)
    if path[:1] != ("runtimes",) or len(path) != 2:
        return None
    kinds = [kind for kind in _KINDS if kind in entry]
    if kinds in ([], [OPENAI]) and key in _OF_OPENAI:
        return f"belongs below 'openai': write {{openai: {{{key}: ...}}}}"
    if kinds in ([], [MERGED]) and key in _OF_MERGED:
        return f"belongs below 'merged': write {{merged: {{{key}: ...}}}}"
    own = _OF_GGUF if kinds == [GGUF] else ()
    return unknown_key(key, ("name", *(kinds or _KINDS), *own))


def _other_server(word: str) -> str | None:
    """Say how a server that serves no GGUF file of ours is reached; None for a word that is nearly one of those."""
    if "llama" in word.lower() or nearest(word.lower(), (LLAMA, OLLAMA), cutoff=0.7):
        return None
    return (
        "any other server (vLLM, SGLang, TGI) is a runtime of its own in place of 'gguf': "
        "write {openai: {serve: ...}} with the command that starts it, or {openai: {url: ...}} for one that runs"
    )


def _server_mistakes(found: Json, *, first: bool) -> Iterator[Mistake]:
    if ("url" in found) == ("serve" in found):
        state = "both" if "url" in found else "neither"
        yield Mistake(
            (), f"found {state} of 'url' and 'serve': name a server that runs, or a command that starts one"
        )
        return
    if "url" in found:
        yield from _url_mistakes(found, first=first)
    else:
        for text in command_mistakes(found["serve"], found.get("model")):
            yield Mistake(("serve",), text)
    shared = "model" in found and found["model"] == found.get("base_model")
    if shared and "{model}" not in str(found.get("serve")):
        text = f"is {found['model']!r}, which is base_model too: the tuned and the base model need two names"
        yield Mistake(("model",), text)
    for key in found.get("extra", {}):
        if key in _OWN_PARAMETERS:
            yield Mistake(("extra", key), "is set by us, from generation and the prompts: leave it out")
    variable = found.get("api_key_env")
    if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        yield Mistake(
            ("api_key_env",),
            "is no name of an environment variable: write the variable that holds the key, never the key itself",
        )


def _url_mistakes(found: Json, *, first: bool) -> Iterator[Mistake]:
    url = found["url"]
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (it is read, and refused, when it is asked for)
    except ValueError as error:
        yield Mistake(("url",), f"found {url!r}, which is no address: {error}")
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in url:
        meant = f"; did you mean 'http://{url}'?" if _BARE_ADDRESS.fullmatch(url) else ""
        yield Mistake(("url",), f"found {url!r}, allowed: http://... or https://...{meant}")
    elif parts.username or parts.password:
        yield Mistake(("url",), "holds a user name or password: name an environment variable in api_key_env")
    elif parts.query or parts.fragment:
        yield Mistake(
            ("url",), f"found {url!r}: write the base address alone, as in http://127.0.0.1:8000/v1"
        )
    if first and "base_model" not in found:
        yield Mistake(
            (),
            "the decision is made in the first runtime, which answers for the base as well: "
            "write base_model, the name under which this server knows it",
        )


def api_key(settings: ServerSettings) -> str | None:
    """Return the key from the environment; KeyError when the variable that is named holds none."""
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "")
    if not key:
        raise KeyError(settings.api_key_env)
    return key
