"""YAML in, one frozen `Experiment` out, every mistake named with file, line and key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_finetune.experiment.contradictions import contradictions
from pytest_finetune.experiment.records import (
    CharterText,
    DecisionDefaults,
    DriftSettings,
    ExecutorSettings,
    Experiment,
    ExperimentError,
    Generation,
    Launcher,
    Lora,
    OutsideArm,
    Paths,
    Prompt,
    Replay,
    Split,
    Training,
    contained,
    schema,
)
from pytest_finetune.experiment.runtimes import as_written, read_runtime, unknown_at
from pytest_finetune.yamlfile import (
    Json,
    JsonTree,
    KeyPath,
    Problem,
    YamlError,
    YamlFile,
    dotted,
    load_yaml,
    parse_scalar,
    schema_problems,
)

# What a training in a process of its own reads of an experiment.
TRAINED_BY: Final = (
    "task",
    "base_model",
    "revision",
    "trust_remote_code",
    "attn_implementation",
    "peft_method",
    "quantization",
    "lora",
    "training",
    "prompt",
    "paths",
    "split",
)


def parse_set(assignments: Sequence[str]) -> JsonTree:
    """Read ``KEY=VALUE`` words; values are YAML, so ``2e-4`` is a number and ``[a, b]`` a list.

    >>> parse_set(["training.learning_rate=1e-4", "lora.target_modules=[q_proj, v_proj]"])
    {'training.learning_rate': 0.0001, 'lora.target_modules': ['q_proj', 'v_proj']}
    """
    overrides: JsonTree = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise ExperimentError(
                f"--finetune-set {word!r}: write KEY=VALUE, as in training.learning_rate=1e-4"
            )
        try:
            overrides[key.strip()] = parse_scalar(value)
        except YamlError as error:
            raise ExperimentError(f"--finetune-set {word!r}: {error}") from None
    return overrides


def load_experiment(
    root: Path,
    relative: str,
    overrides: Json | None = None,
    *,
    name: str | None = None,
    bundled: bool = False,
) -> Experiment:
    """Read and check an experiment file.

    `overrides` maps dotted keys to values and wins over the file. Raises ExperimentError with every mistake, one a
    line, as ``file:line: key: what was found, what is allowed``. A `bundled` experiment was checked when it ran; the
    files that it names need not lie beside it.
    """
    overrides = dict(overrides or {})
    path = contained(root, relative)
    try:
        file = load_yaml(path, relative)
    except FileNotFoundError:
        raise ExperimentError(f"{relative}: no such experiment file in {str(root)!r}") from None
    except (YamlError, OSError) as error:
        raise ExperimentError(str(error)) from None
    tree = _overridden(file, overrides)
    problems = list(_mistakes(file, tree, overrides))
    if not problems:
        experiment = build(root.resolve(), relative, tree, overrides, name)
        problems = [] if bundled else list(contradictions(file, tree, experiment))
    if problems:
        raise ExperimentError("\n".join(_located(problem, relative, overrides) for problem in problems))
    return experiment


def located(experiment: Experiment, path: KeyPath, text: str) -> str:
    """Return a mistake that was found later as `load_experiment` would have told it, with file, line and key."""
    problem = Problem(line_of(experiment, path), dotted(path), text)
    return _located(problem, experiment.file, experiment.overrides)


def line_of(experiment: Experiment, path: KeyPath) -> int | None:
    """Return the line of a key in the experiment's file, None when the file is no longer as it was."""
    try:
        return load_yaml(contained(experiment.root, experiment.file), experiment.file).line_of(path)
    except (YamlError, OSError, ExperimentError):
        return None


# Each stands in place of the other: naming one on the command line puts the one of the file aside.
_INSTEAD: Final = {"training.seeds": "seed", "training.seed": "seeds"}


def _overridden(file: YamlFile, overrides: Json) -> Any:
    tree = json.loads(json.dumps(file.tree, default=str))
    if not isinstance(tree, dict):
        return tree
    for written, value in overrides.items():
        *parents, last = written.split(".")
        at = tree
        for parent in parents:
            if not isinstance(at.get(parent), dict):
                at[parent] = {}
            at = at[parent]
        at[last] = value
        if (other := _INSTEAD.get(written)) and f"training.{other}" not in overrides:
            at.pop(other, None)
    return tree


def _mistakes(file: YamlFile, tree: object, overrides: Json) -> Iterator[Problem]:
    if tree is None or not isinstance(tree, dict):
        yield Problem(
            1,
            "",
            "an experiment is a mapping of keys; this file holds "
            + ("nothing" if tree is None else type(tree).__name__),
        )
        return
    yield from sorted(
        schema_problems(tree, schema(), file.line_of, _unknown_at),
        key=lambda found: (found.line or 0, found.key),
    )


def _unknown_at(path: KeyPath, entry: Json, key: str) -> str | None:
    """Say of a key that its place does not know in which section it belongs; None where no section knows it."""
    sections = {
        name: section["properties"]
        for name, section in schema()["properties"].items()
        if "properties" in section
    }
    section, _, inner = key.partition(".")
    if inner in sections.get(section, ()):
        return f"write `{inner}` below `{section}`; only the command line joins keys by a point"
    homes = [name for name, known in sections.items() if key in known and (name,) != path]
    if len(homes) == 1 and len(path) < 2:
        return f"belongs below `{homes[0]}`: write {homes[0]}: {{{key}: ...}}"
    return unknown_at(path, entry, key)


def _located(problem: Problem, label: str, overrides: Json) -> str:
    for key in overrides:
        if problem.key == key or problem.key.startswith((f"{key}.", f"{key}[")):
            return f"--finetune-set {key}={overrides[key]}: {problem.text}"
        if key.startswith(f"{problem.key}.") and problem.text.startswith("unknown key"):
            return f"--finetune-set {key}={overrides[key]}: {problem.key}: {problem.text}"
    return problem.at(label)


def build(root: Path, relative: str, tree: Json, overrides: Json, name: str | None) -> Experiment:
    """Build the record of a tree that the schema allows."""
    method = tree["peft_method"]
    lora = dict(tree.get("lora") or {})
    if isinstance(lora.get("target_modules"), list):
        lora["target_modules"] = tuple(lora["target_modules"])
    runtimes = [read_runtime(entry) for entry in tree.get("runtimes", ("transformers",))]
    prompt = tree.get("prompt", {})
    values: JsonTree = {
        "task": tree.get("task", Path(relative).stem),
        "base_model": tree["base_model"],
        "revision": tree.get("revision"),
        "trust_remote_code": tree.get("trust_remote_code", False),
        "peft_method": method,
        "quantization": tree.get("quantization", "nf4" if method == "qlora" else "none"),
        "lora": Lora(**lora),
        "training": _training(tree["training"]),
        "prompt": Prompt(**{**prompt, "candidates": tuple(prompt.get("candidates", ()))}),
        "generation": Generation(**tree.get("generation", {})),
        "runtimes": tuple(runtime.name for runtime in runtimes),
        "paths": Paths(**tree["paths"]),
        "decision": DecisionDefaults(**tree.get("decision", {})),
        "arms": {arm: OutsideArm(**given) for arm, given in tree.get("arms", {}).items()},
        "drift": _drift(tree.get("drift", True)),
        "charter": _charter(tree.get("charter", {})),
    }
    if "trained" in tree:
        values["trained"] = tree["trained"]["adapter"]
    return Experiment(
        name=name or Path(relative).with_suffix("").as_posix(),
        file=relative,
        root=root,
        overrides=overrides,
        resolved={key: _plain(value) for key, value in values.items()}
        | {name: _settings(values[name], defaults) for name, defaults in _LATER.items()}
        | {"drift": {"prompts": values["drift"].prompts} if values["drift"].measure else False}
        | {"runtimes": _plain([as_written(runtime) for runtime in runtimes])}
        | ({"lora": None} if method == "full" else {})
        | ({"attn_implementation": attention} if (attention := tree.get("attn_implementation")) else {})
        | ({"split": _plain(split)} if (split := tree.get("split")) else {}),
        executor=_executor(tree.get("executor", {})),
        split=Split(**split) if split else None,
        attn_implementation=tree.get("attn_implementation"),
        runtime_settings={name: settings for name, settings in runtimes if settings is not None},
        **values,
    )


_LATER: Final[Mapping[str, Json]] = {
    "training": {"assistant_turns": "last", "keep": "last", "seeds": (), "replay": None, "shard": False},
    "prompt": {"chat_template_kwargs": {}, "turns": "last"},
    "paths": {"columns": {}, "dev_file": None},
    "decision": {"grow": False},
}
"""Settings that came later, with their defaults: only another value stands among the resolved ones."""


def _settings(section: Training | Prompt | Paths | DecisionDefaults, defaults: Json) -> object:
    given = dataclasses.asdict(section)
    return _plain(
        {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
    )


def _training(tree: Json) -> Training:
    """Return the training; one seed in a list is that seed."""
    replay = tree.get("replay")
    parts = {
        "launcher": Launcher(**tree.get("launcher", {})),
        "replay": None if replay is None else Replay(**replay),
    }
    given = {**tree, **parts}
    seeds = tuple(given.pop("seeds", ()))
    if seeds:
        given["seed"] = seeds[0]
    return Training(**given, seeds=seeds if len(seeds) > 1 else ())


def _charter(tree: Json) -> CharterText:
    """Return the charter; a year that YAML reads as a number is the text that its owner wrote."""
    return CharterText(**{name: str(said) if isinstance(said, int) else said for name, said in tree.items()})


def _executor(tree: Json) -> ExecutorSettings:
    return ExecutorSettings(**{**tree, "cards": tuple(tree.get("cards", ()))})


def _drift(given: bool | Json) -> DriftSettings:
    return DriftSettings(**given) if isinstance(given, Mapping) else DriftSettings(measure=given)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        value = {name: _plain(part) for name, part in value.items()}
    return json.loads(json.dumps(value))


def experiment_json(experiment: Experiment) -> JsonTree:
    """Return what a training reads of an experiment."""
    keys = {name: experiment.resolved[name] for name in TRAINED_BY if name in experiment.resolved}
    return {"name": experiment.name, "file": experiment.file, "root": str(experiment.root), "keys": keys}


def experiment_of(tree: Json) -> Experiment:
    """Build the experiment again; what a training does not read has its default. Raises ValueError for a bad tree."""
    keys = tree["keys"]
    problems = [f"{found.key}: {found.text}" for found in schema_problems(keys, schema(), lambda _: 1)]
    if problems:
        raise ValueError("; ".join(problems))
    return build(Path(tree["root"]), tree["file"], keys, {}, tree["name"])
