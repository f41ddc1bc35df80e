"""Read a YAML file that people write: every value knows its line, every mistake names its place.

The experiment and the contract are both such files; both are described by a JSON Schema that ships in the package.
"""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.errors import FinetuneError
from pytest_finetune.wording import nearest, unknown_key
from pytest_finetune.yaml_slips import of_key, of_value, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    import yaml
    from jsonschema.exceptions import ValidationError

KeyPath = tuple[str | int, ...]
# What is said of a key that a mapping at a place does not know; None leaves it to the schema.
Unknown = Callable[[KeyPath, "Json", str], str | None]
# An object of JSON or YAML whose values are looked at by who knows its schema; and one that is being built.
Json = Mapping[str, Any]
JsonTree = dict[str, Any]

MAX_BYTES: Final = 1024 * 1024
MAX_NODES: Final = 50_000

# YAML 1.1, which PyYAML speaks, reads `2e-4` as text; YAML 1.2 and every reader of this file take it for a number.
_FLOAT: Final = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
# YAML 1.1 also reads `010` as 8 and `1:30` as 90; here they stay the texts that were written.
_INT: Final = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")


class YamlError(FinetuneError, ValueError):
    """The file is not YAML that we accept; the message is for its author."""


class Problem(NamedTuple):
    """One mistake in a file: its line (1-based, None when it has none), the dotted key, and what to do."""

    line: int | None
    key: str
    text: str

    def at(self, label: str) -> str:
        """Return ``file:line: key: text``."""
        place = label if self.line is None else f"{label}:{self.line}"
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A parsed file: its JSON-like tree, and the line on which each key stands."""

    label: str
    tree: Any
    text: str
    lines: Mapping[KeyPath, int] = field(repr=False)

    def line_of(self, path: KeyPath) -> int | None:
        """Return the line of a key, or of the nearest parent that the file holds."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def load_yaml(path: Path, label: str) -> YamlFile:
    """Read the file at `path`; messages call it `label`.

    Raises YamlError for what is no YAML, a repeated key, a tag that would build an object, or too large a tree;
    FileNotFoundError and other OSErrors pass.
    """
    raw = path.read_bytes()
    if len(raw) > MAX_BYTES:
        raise YamlError(f"{label}: {len(raw)} bytes is too large for such a file (limit {MAX_BYTES})")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = " but UTF-16" if raw[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else ""
        found = f"{label}: not UTF-8 text{wide} (byte {error.start}): save it as UTF-8"
        raise YamlError(found) from None
    return parse_yaml(text, label)


def parse_yaml(text: str, label: str) -> YamlFile:
    """Parse `text`; see `load_yaml`."""
    import yaml

    loader = _loader(text, label)
    try:
        node = loader.get_single_node()
        lines = dict(_key_lines(node, label)) if node is not None else {}
        tree = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line, said = unreadable(error, text)
        place = label if line is None else f"{label}:{line}"
        raise YamlError(f"{place}: unreadable YAML: {said}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, YamlError):
            raise
        detail = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise YamlError(f"{label}: unreadable YAML: {detail}") from None
    finally:
        loader.dispose()
    return YamlFile(label, tree, text, lines)


def parse_scalar(text: str) -> Any:
    """Read one value as it would be read in a file: ``2e-4`` is a number, ``[a, b]`` a list."""
    return parse_yaml(text, "value").tree


def check(file: YamlFile, schema: Mapping[str, Any]) -> list[Problem]:
    """Return every way in which the file's tree breaks the JSON Schema (2020-12), in file order."""
    return sorted(
        (problem for problem in schema_problems(file.tree, schema, file.line_of)),
        key=lambda problem: (problem.line or 0, problem.key),
    )


def schema_problems(
    tree: Any, schema: Mapping[str, Any], line_of: Any, unknown: Unknown = lambda *_: None
) -> Iterator[Problem]:
    """Yield the problems of `tree`; `line_of(path)` gives the line of a key or None.

    `unknown` says what the schema cannot: which keys a mapping knows where that hangs on what else stands in it, and
    of a value that is none of those allowed what was meant instead (its mapping is empty then).
    """
    for error in _validator()(schema).iter_errors(tree):
        yield from _explain(error, tuple(error.absolute_path), line_of, unknown)


@cache
def _validator() -> Any:
    """Return the validator of JSON Schema for which 256.0 is no whole number: libraries that want one refuse it."""
    from jsonschema import Draft202012Validator, validators

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    extended: Any = validators.extend
    return extended(Draft202012Validator, type_checker=whole)


def _loader(text: str, label: str) -> yaml.SafeLoader:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X} cannot stand in YAML: remove it"
        raise YamlError(f"{label}:{line}: unreadable YAML: {what}") from None
    resolvers = {first: list(rules) for first, rules in loader.yaml_implicit_resolvers.items()}
    for first in "-+0123456789.":
        # A date such as 2026-01-31 stays text: every value of these files is JSON.
        ours = [f"tag:yaml.org,2002:{kind}" for kind in ("float", "int", "timestamp")]
        kept = [rule for rule in resolvers.get(first, []) if rule[0] not in ours]
        resolvers[first] = [*kept, (ours[0], _FLOAT), (ours[1], _INT)]
    loader.yaml_implicit_resolvers = resolvers
    return loader


def _key_lines(root: yaml.Node, label: str) -> Iterator[tuple[KeyPath, int]]:
    import yaml

    todo: list[tuple[KeyPath, yaml.Node]] = [((), root)]
    seen = 0
    while todo:
        path, node = todo.pop()
        seen += 1
        if seen > MAX_NODES:
            raise YamlError(f"{label}: more than {MAX_NODES} values (aliases counted where they are used)")
        if not path:
            yield path, node.start_mark.line + 1
        if node.tag == "tag:yaml.org,2002:float" and not _is_finite(node.value):
            place = f"{label}:{node.start_mark.line + 1}: {dotted(path)}"
            raise YamlError(f"{place}: found {node.value}, allowed: a finite number")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                _keep_word(item)
                yield (*path, index), item.start_mark.line + 1
                todo.append(((*path, index), item))
        elif isinstance(node, yaml.MappingNode):
            keys: dict[str, int] = {}
            before = ""
            for key, value in node.value:
                name = _key_name(key, label, before)
                before = value.value if isinstance(value, yaml.ScalarNode) else ""
                line = key.start_mark.line + 1
                if name in keys:
                    again = dotted((*path, name))
                    raise YamlError(
                        f"{label}:{line}: {again}: the key stands here again, first on line {keys[name]}"
                    )
                keys[name] = line
                yield (*path, name), line
                todo.append(((*path, name), value))


def _keep_word(item: yaml.Node) -> None:
    """Let yes, no, on and off be words in a list, such as one of labels; true and false are what they say."""
    if item.tag == "tag:yaml.org,2002:bool" and item.value.lower() in ("yes", "no", "on", "off"):
        item.tag = "tag:yaml.org,2002:str"


def _is_finite(written: str) -> bool:
    try:
        return math.isfinite(float(written.replace("_", "")))
    except ValueError:  # .inf and .nan are words of YAML alone
        return False


def _key_name(node: yaml.Node, label: str, before: str) -> str:
    """Return a key; `before` is the value that stands before it in its mapping."""
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(f"{label}:{node.start_mark.line + 1}: a key must be a plain word")
    if node.tag == "tag:yaml.org,2002:merge":
        raise YamlError(
            f"{label}:{node.start_mark.line + 1}: merge keys (<<) are not supported: write the keys out"
        )
    if node.value.isdecimal() and before.isdecimal() and node.style is None:
        whole = f", or {before}{node.value}" if len(node.value) == 3 else ""
        told = f"a comma ends the value before it; write {before}.{node.value}, with a point{whole}"
        raise YamlError(f"{label}:{node.start_mark.line + 1}: {node.value} stands where a key is due: {told}")
    if node.tag != "tag:yaml.org,2002:str":
        raise YamlError(
            f"{label}:{node.start_mark.line + 1}: the key {node.value} is not text: put it in quotes"
        )
    if "\u00a0" in node.value:
        told = "a no-break space (U+00A0) stands in it: write a plain space"
        raise YamlError(f"{label}:{node.start_mark.line + 1}: the key {node.value.strip()}: {told}")
    return str(node.value)


def dotted(path: KeyPath) -> str:
    """Return a key as messages write it.

    >>> dotted(("runtimes", 1, "gguf"))
    'runtimes[1].gguf'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _explain(error: ValidationError, path: KeyPath, line_of: Any, unknown: Unknown) -> Iterator[Problem]:
    key = dotted(path)
    found: Any = error.instance
    demanded: Any = error.validator_value
    match error.validator:
        case "additionalProperties" if isinstance(error.schema, Mapping):
            known = list(error.schema.get("properties", {}))
            for name in found:
                if name not in known:
                    inner = (*path, name)
                    told = (
                        of_key(str(name)) or unknown(path, found, str(name)) or unknown_key(str(name), known)
                    )
                    yield Problem(line_of(inner), dotted(inner), told)
        case "required":
            missing = [name for name in demanded if name not in found]
            for name in missing:
                if repr(name) in error.message:
                    yield Problem(line_of(path), dotted((*path, name)), "missing; it has no default")
        case "type":
            wanted = demanded
            names = wanted if isinstance(wanted, str) else " or ".join(wanted).removesuffix(" or null")
            told = f"found {_shown(found)}, allowed: {_TYPE_WORDS.get(names, names)}"
            yield Problem(line_of(path), key, told + of_value(found, wanted))
        case "enum":
            allowed = [str(value) for value in demanded if value is not None]
            hint = of_value(found, "string")
            if meant := unknown(path, {}, str(found)):
                hint = f"; {meant}"
            elif not isinstance(found, bool) and (guess := nearest(str(found).lower(), allowed)):
                hint = f"; did you mean {guess!r}?"
            yield Problem(line_of(path), key, f"found {_shown(found)}, allowed: {', '.join(allowed)}{hint}")
        case "anyOf" | "oneOf":
            described = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
            yield Problem(line_of(path), key, f"found {_shown(found)}, allowed: {described or error.message}")
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
            bound = f"{words.get(str(error.validator), 'less than')} {demanded}"
            yield Problem(line_of(path), key, f"found {_shown(found)}, allowed: {bound}")
        case "minLength" | "minItems" | "minProperties":
            yield Problem(
                line_of(path),
                key,
                f"found {_shown(found)}, which is too short (at least {demanded})",
            )
        case "uniqueItems":
            twice = next(value for number, value in enumerate(found) if value in found[:number])
            yield Problem(line_of(path), key, f"found {_shown(twice)} more than once: write it once")
        case _:
            yield Problem(line_of(path), key, error.message)


_TYPE_WORDS: Final = {
    "object": "a mapping of keys",
    "array": "a list",
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string or integer": "text",
}


def _shown(value: object) -> str:
    text = repr(value)
    kind = {str: "text", bool: "true/false", int: "number", float: "number", list: "list", dict: "mapping"}
    named = kind.get(type(value), "nothing" if value is None else type(value).__name__)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({named})"
