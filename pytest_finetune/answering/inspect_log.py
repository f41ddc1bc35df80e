"""Read the samples of an inspect_ai log, ``.json`` or ``.eval``, as data.

A ``.eval`` log is a zip archive with one JSON file a sample, since 2026 compressed with Zstandard.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from pytest_finetune.answering.answers import AnswersError
from pytest_finetune.data.tool_calls import with_calls
from pytest_finetune.errors import install
from pytest_finetune.yamlfile import Json, JsonTree

_ZSTANDARD: Final = 93
_LARGEST_BYTES: Final = 256 * 2**20
_ATTACHMENT: Final = "attachment://"


def inspect_samples(path: Path, label: str) -> Iterator[tuple[str, JsonTree]]:
    """Yield each sample with its place: `id`, `input_text`, `asked`, `response` and what is known of it."""
    for where, sample in _samples(path, label):
        if not isinstance(sample, dict):
            raise AnswersError(f"{where}: a sample is an object, this is {type(sample).__name__}")
        yield where, _sample(where, sample)


def _samples(path: Path, label: str) -> Iterator[tuple[str, object]]:
    if not zipfile.is_zipfile(path):
        log = _json(path.read_bytes(), label)
        found = log.get("samples") if isinstance(log, dict) else None
        if not isinstance(found, list):
            raise AnswersError(f"{label}: an inspect_ai log has a list 'samples'; this one has none")
        yield from ((f"{label}: sample {number}", sample) for number, sample in enumerate(found, 1))
        return
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for member in archive.infolist():
            if member.filename.startswith("samples/") and member.filename.endswith(".json"):
                where = f"{label}: {member.filename}"
                yield where, _json(_content(archive, raw, member, where), where)


def _content(archive: zipfile.ZipFile, raw: IO[bytes], member: zipfile.ZipInfo, where: str) -> bytes:
    if member.file_size > _LARGEST_BYTES:
        raise AnswersError(f"{where}: {member.file_size:,} bytes for one sample: refused")
    if member.compress_type != _ZSTANDARD:
        return archive.read(member)
    try:
        import zstandard
    except ImportError:
        raise AnswersError(
            f"{where}: is compressed with Zstandard: {install('data')}, or write the log as JSON: "
            "inspect log convert --to json"
        ) from None
    # zipfile knows Zstandard from Python 3.14 on; the local header says where the bytes begin.
    raw.seek(member.header_offset)
    name, extra = struct.unpack("<HH", raw.read(30)[26:30])
    raw.seek(name + extra, 1)
    packed = raw.read(member.compress_size)
    try:
        content = (
            zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read(_LARGEST_BYTES)
        )
    except zstandard.ZstdError as error:
        raise AnswersError(f"{where}: is damaged: {error}") from None
    if len(content) != member.file_size:
        raise AnswersError(f"{where}: is damaged: {len(content):,} bytes, not {member.file_size:,}")
    return content


def _json(content: bytes, where: str) -> object:
    try:
        return json.loads(content)
    except ValueError as error:
        raise AnswersError(f"{where}: no JSON: {error}") from None


def _sample(where: str, sample: Json) -> JsonTree:
    output = _part(sample, "output")
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        error = _part(sample, "error").get("message") or "the sample has no output"
        raise AnswersError(f"{where}: no answer: {error}")
    attachments = _part(sample, "attachments")
    message = _part(choices[0], "message")
    text = _message_text(message.get("content"), attachments)
    text = with_calls(text, calls_beside(message, where))
    thinking = _reasoning(message.get("content"))
    if text is None and thinking is not None:
        text = ""  # the limit came first
    if text is None:
        raise AnswersError(f"{where}: the first choice holds no text")
    return {
        "id": sample.get("id"),
        "input_text": _input_text(sample.get("input"), attachments),
        "asked": _asked(sample, attachments),
        "response": text,
        "thinking": thinking,
        "tokens": _part(output, "usage").get("output_tokens"),
        "seconds": output.get("time"),
        "stopped": choices[0].get("stop_reason") not in {"max_tokens", "model_length"},
    }


def calls_beside(message: Json, where: str) -> list[object]:
    """Return the calls of tools that a file tells apart from the text of an answer."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise AnswersError(f"{where}: 'tool_calls' is {type(calls).__name__}, it must be a list of calls")
    return calls


def _part(of: Json, key: str) -> Json:
    value = of.get(key)
    return value if isinstance(value, dict) else {}


def _input_text(value: object, attachments: Json) -> str | None:
    """Return the input when it is a text, or the text of the last user message of a conversation."""
    if isinstance(value, list):
        asked = [turn for turn in value if isinstance(turn, dict) and turn.get("role") == "user"]
        value = asked[-1].get("content") if asked else None
    return _message_text(value, attachments)


def _asked(sample: Json, attachments: Json) -> list[str]:
    """Return every text that was put to the model: the input, and what a prompt template made of it."""
    given = sample.get("input")
    turns = [*(given if isinstance(given, list) else ()), *(sample.get("messages") or ())]
    said = [
        turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") != "assistant"
    ]
    texts = [_message_text(content, attachments) for content in (given, *said)]
    return [text for text in texts if text]


def _reasoning(content: object) -> str | None:
    """Return the thinking that a message holds in parts of its own."""
    parts = content if isinstance(content, list) else ()
    texts = [part.get("reasoning") for part in parts if isinstance(part, dict)]
    found = [text for text in texts if isinstance(text, str)]
    return "\n\n".join(found) if found else None


def _message_text(value: object, attachments: Json) -> str | None:
    if isinstance(value, list):
        texts = [
            part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        value = "".join(texts) if texts else None
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        value = attachments.get(value.removeprefix(_ATTACHMENT))
    return value if isinstance(value, str) else None
