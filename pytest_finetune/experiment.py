"""The experiment file: YAML in, one frozen `Experiment` out, every mistake named with file, line and key."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from pytest_finetune.runtime_settings import (
    RuntimeSettings,
    ServerSettings,
    as_written,
    mistakes,
    read_runtime,
)
from pytest_finetune.yamlfile import (
    KeyPath,
    Problem,
    YamlError,
    YamlFile,
    load_yaml,
    parse_scalar,
    schema_problems,
)

DEFAULT_TEMPLATE: Final = "Instruction: {instruction}\nInput: {input}\nAnswer:"
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?$")


class ExperimentError(ValueError):
    """The experiment file cannot be used; the message has one line for each mistake."""


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter: rank, scale, dropout and the modules that it changes.

    `init_lora_weights` pissa and olora take a part of the base's weights for the adapter's first ones.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    init_lora_weights: str | bool = True

    @property
    def changes_base(self) -> bool:
        """Tell whether the base that is trained on is no longer the one that the adapter is served on."""
        return str(self.init_lora_weights).partition("_")[0] in {"pissa", "olora"}


@dataclass(frozen=True, slots=True)
class Training:
    """The optimisation; lengths in tokens, `max_steps` in optimizer steps."""

    max_seq_length: int = 512
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    learning_rate: float = 2e-4
    num_train_epochs: float = 2.0
    max_steps: int | None = None
    save_total_limit: int = 2
    seed: int = 0
    gradient_checkpointing: bool = False
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0
    packing: bool = False
    full_determinism: bool = False
    sft: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """How a row becomes a prompt; `few_shot` rows stand before the question in the prompt-only arm.

    `candidates` are templates written by hand: the best of them on `candidate_rows` training rows is an arm.
    """

    template: str = DEFAULT_TEMPLATE
    few_shot: int = 0
    candidates: tuple[str, ...] = ()
    candidate_rows: int = 40


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are decoded: greedy unless `do_sample`.

    In an experiment ``constrain: contract`` asks for one more arm. In what a runtime is given, `constrain` is None or
    the JSON Schema, as text, that every answer has to follow.
    """

    max_new_tokens: int = 80
    batch_size: int = 8
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    constrain: str | None = None


@dataclass(frozen=True, slots=True)
class Paths:
    """Files of the experiment, relative to the root and inside it."""

    train_file: str
    eval_file: str
    contract_file: str | None = None
    suites: Mapping[str, str] = field(default_factory=dict)
    output_dir: str = "artifacts/adapter"


@dataclass(frozen=True, slots=True)
class DecisionDefaults:
    """What the primary rule must show when the rule itself does not say."""

    confidence: float = 0.95
    min_gain: float = 0.05
    prompt_gain: float | None = None
    power: float = 0.8
    spend: bool = True
    noise_runs: int = 0


@dataclass(frozen=True, slots=True)
class OutsideArm:
    """An arm from outside; exactly one of the first four says what it is.

    `adapter` is a key in the store (its beginning is enough), `bundle` a promoted folder, `base_model` another base,
    `answers` a file in one of the formats. `must_beat` None: an adapter or a bundle must be beaten, the others are
    shown.
    """

    adapter: str | None = None
    bundle: str | None = None
    base_model: str | None = None
    answers: str | None = None
    format: str = "outputs"
    revision: str | None = None
    quantization: str | None = None
    must_beat: bool | None = None
    min_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class CharterText:
    """Why the run should exist, as its owner wrote it down."""

    behaviour: str | None = None
    facts_change: str | None = None
    prompt_tried: str | None = None
    owner: str | None = None
    base_license: str | None = None
    data_license: str | None = None
    personal_data: str | None = None
    retire_when: str | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """One resolved experiment: every key has its value, `resolved` is the same as a JSON tree.

    With ``peft_method: full`` nothing reads `lora`, which is null in `resolved`.
    """

    name: str
    file: str
    root: Path
    task: str
    base_model: str
    revision: str | None
    trust_remote_code: bool
    peft_method: str
    quantization: str
    lora: Lora
    training: Training
    prompt: Prompt
    generation: Generation
    runtimes: tuple[str, ...]
    paths: Paths
    decision: DecisionDefaults
    charter: CharterText
    overrides: Mapping[str, Any]
    resolved: Mapping[str, Any] = field(repr=False)
    runtime_settings: Mapping[str, RuntimeSettings] = field(default_factory=dict)
    arms: Mapping[str, OutsideArm] = field(default_factory=dict)

    def path(self, relative: str) -> Path:
        """Return the absolute path of a file of the project; ExperimentError when it lies outside."""
        return contained(self.root, relative)

    def local_base(self) -> Path | None:
        """Return the base model's folder, or None when `base_model` is a hub id."""
        folder = (self.root / Path(self.base_model).expanduser()).resolve()
        if folder.is_dir():
            return folder
        return None if is_hub_id(self.base_model) else folder


def is_hub_id(name: str) -> bool:
    """Tell whether `name` has the form of a hub id (``org/model``)."""
    return _HUB_ID.match(name) is not None


def contained(root: Path, relative: str) -> Path:
    """Return ``root / relative`` resolved; ExperimentError when that lies outside the root."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ExperimentError(f"the path {relative!r} leads outside the project {str(root)!r}")
    return path


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of the experiment file."""
    text = (Path(__file__).parent / "experiment.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def parse_set(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words; values are YAML, so ``2e-4`` is a number and ``[a, b]`` a list.

    >>> parse_set(["training.learning_rate=1e-4", "lora.target_modules=[q_proj, v_proj]"])
    {'training.learning_rate': 0.0001, 'lora.target_modules': ['q_proj', 'v_proj']}
    """
    overrides: dict[str, Any] = {}
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
    root: Path, relative: str, overrides: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Experiment:
    """Read and check an experiment file.

    `overrides` maps dotted keys to values and wins over the file. Raises ExperimentError with every mistake, one a
    line, as ``file:line: key: what was found, what is allowed``.
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
        experiment = _build(root.resolve(), relative, tree, overrides, name)
        problems = list(_contradictions(file, tree, experiment))
    if problems:
        raise ExperimentError("\n".join(_located(problem, relative, overrides) for problem in problems))
    return experiment


def _overridden(file: YamlFile, overrides: Mapping[str, Any]) -> Any:
    tree = json.loads(json.dumps(file.tree, default=str))
    if not isinstance(tree, dict):
        return tree
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        at = tree
        for parent in parents:
            if not isinstance(at.get(parent), dict):
                at[parent] = {}
            at = at[parent]
        at[last] = value
    return tree


def _mistakes(file: YamlFile, tree: Any, overrides: Mapping[str, Any]) -> Iterator[Problem]:
    if tree is None or not isinstance(tree, dict):
        yield Problem(
            1,
            "",
            "an experiment is a mapping of keys; this file holds "
            + ("nothing" if tree is None else type(tree).__name__),
        )
        return
    yield from sorted(
        schema_problems(tree, schema(), file.line_of), key=lambda found: (found.line or 0, found.key)
    )


def _located(problem: Problem, label: str, overrides: Mapping[str, Any]) -> str:
    for key in overrides:
        if problem.key == key or problem.key.startswith((f"{key}.", f"{key}[")):
            return f"--finetune-set {key}={overrides[key]}: {problem.text}"
    return problem.at(label)


def _build(
    root: Path, relative: str, tree: Mapping[str, Any], overrides: Mapping[str, Any], name: str | None
) -> Experiment:
    method = tree["peft_method"]
    lora = dict(tree.get("lora") or {})
    if isinstance(lora.get("target_modules"), list):
        lora["target_modules"] = tuple(lora["target_modules"])
    runtimes = [read_runtime(entry) for entry in tree.get("runtimes", ("transformers",))]
    values: dict[str, Any] = {
        "task": tree.get("task", Path(relative).stem),
        "base_model": tree["base_model"],
        "revision": tree.get("revision"),
        "trust_remote_code": tree.get("trust_remote_code", False),
        "peft_method": method,
        "quantization": tree.get("quantization", "nf4" if method == "qlora" else "none"),
        "lora": Lora(**lora),
        "training": Training(**tree["training"]),
        "prompt": _prompt(tree.get("prompt", {})),
        "generation": Generation(**tree.get("generation", {})),
        "runtimes": tuple(runtime.name for runtime in runtimes),
        "paths": Paths(**tree["paths"]),
        "decision": DecisionDefaults(**tree.get("decision", {})),
        "arms": {arm: OutsideArm(**given) for arm, given in tree.get("arms", {}).items()},
        "charter": CharterText(**tree.get("charter", {})),
    }
    return Experiment(
        name=name or Path(relative).with_suffix("").as_posix(),
        file=relative,
        root=root,
        overrides=overrides,
        resolved={key: _plain(value) for key, value in values.items()}
        | {"runtimes": _plain([as_written(runtime) for runtime in runtimes])}
        | ({"lora": None} if method == "full" else {}),
        runtime_settings={name: settings for name, settings in runtimes if settings is not None},
        **values,
    )


def _prompt(given: Mapping[str, Any]) -> Prompt:
    return Prompt(**{**given, "candidates": tuple(given.get("candidates", ()))})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        value = {name: _plain(part) for name, part in value.items()}
    return json.loads(json.dumps(value))


def _contradictions(file: YamlFile, tree: Mapping[str, Any], experiment: Experiment) -> Iterator[Problem]:
    def problem(path: KeyPath, text: str) -> Problem:
        return Problem(file.line_of(path), ".".join(map(str, path)), text)

    method, quantization = experiment.peft_method, experiment.quantization
    if method == "qlora" and quantization != "nf4":
        yield problem(
            ("quantization",),
            f"{quantization!r} contradicts peft_method: qlora, which stores the base in nf4: leave it out or write nf4",
        )
    if method == "lora" and quantization == "nf4":
        yield problem(
            ("quantization",),
            "'nf4' contradicts peft_method: lora: write peft_method: qlora, or quantization: none",
        )
    yield from _method_problems(tree, experiment, problem)
    prompt = experiment.prompt
    if prompt.template != "chat" and "{input}" not in prompt.template:
        yield problem(
            ("prompt", "template"),
            f"found {prompt.template!r}, which shows no {{input}}: the model would answer every row alike",
        )
    for number, candidate in enumerate(prompt.candidates):
        if "{input}" not in candidate:
            text = f"found {candidate!r}, which shows no {{input}}: the model would answer every row alike"
            yield problem(("prompt", "candidates", number), text)
    if experiment.generation.constrain and experiment.paths.contract_file is None:
        text = "'contract' needs paths.contract_file, whose output.schema every answer then follows"
        yield problem(("generation", "constrain"), text)
    yield from _arm_problems(experiment, problem)
    own = {key for key in schema()["properties"]["training"]["properties"] if key != "sft"} | {"max_length"}
    for key in experiment.training.sft:
        if key in own:
            plain = "max_seq_length" if key == "max_length" else key
            yield problem(("training", "sft", key), f"has a key of its own: write training.{plain}")
    yield from _runtime_problems(tree, experiment, problem)
    yield from _path_problems(experiment, problem)


def _runtime_problems(tree: Mapping[str, Any], experiment: Experiment, problem: Any) -> Iterator[Problem]:
    chat = experiment.prompt.template == "chat"
    for at, entry in enumerate(tree.get("runtimes", ())):
        for mistake in mistakes(entry, first=at == 0, chat=chat):
            yield problem(("runtimes", at, *mistake.path), mistake.text)
        name = experiment.runtimes[at]
        if name in experiment.runtimes[:at]:
            yield problem(
                ("runtimes", at), f"{name!r} is the name of an earlier runtime: give each its own `name`"
            )
        if at and name in experiment.paths.suites:
            yield problem(("runtimes", at), f"{name!r} is the name of a suite too: give one of them another")
    first = experiment.runtime_settings.get(experiment.runtimes[0])
    brought = [name for name, arm in experiment.arms.items() if arm.answers is None]
    if isinstance(first, ServerSettings) and not first.starts_per_model and brought:
        text = f"this server has two models, the base and the tuned one: it cannot answer for the arm {brought[0]!r}"
        yield problem(
            ("runtimes", 0), f"{text}; start it by a command with {{model}}, or import the arm's answers"
        )


def _arm_problems(experiment: Experiment, problem: Any) -> Iterator[Problem]:
    sources = ("adapter", "bundle", "base_model", "answers")
    for name, arm in experiment.arms.items():
        given = [source for source in sources if getattr(arm, source) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            yield problem(("arms", name), f"an arm is one of {', '.join(sources)}; found {found}")
        elif given == ["answers"]:
            try:
                file = experiment.path(arm.answers or "")
            except ExperimentError as error:
                yield problem(("arms", name, "answers"), str(error))
            else:
                if not file.is_file():
                    text = f"found {arm.answers!r}, but there is no such file in {str(experiment.root)!r}"
                    yield problem(("arms", name, "answers"), text)


def _method_problems(tree: Mapping[str, Any], experiment: Experiment, problem: Any) -> Iterator[Problem]:
    method, quantization = experiment.peft_method, experiment.quantization
    if method != "full" and tree.get("lora") is None:
        yield problem(
            ("peft_method",),
            f"{method!r} needs lora: write lora: {{r: 8, alpha: 16}}, or peft_method: full for a small model",
        )
    if method == "full" and tree.get("lora") is not None:
        yield problem(
            ("lora",),
            "contradicts peft_method: full, which trains every weight: leave lora out (--finetune-set lora=null)",
        )
    if method == "full" and quantization != "none":
        yield problem(
            ("quantization",),
            f"{quantization!r} contradicts peft_method: full: the weights of a quantised base cannot be trained",
        )
    if method == "full" and experiment.trust_remote_code:
        yield problem(
            ("trust_remote_code",),
            "contradicts peft_method: full: the model that is kept would bring code along; train an adapter",
        )
    if experiment.lora.changes_base and quantization != "none":
        yield problem(
            ("lora", "init_lora_weights"),
            f"{experiment.lora.init_lora_weights!r} takes the adapter's first weights out of the base, which a base "
            f"stored as {quantization} cannot give exactly: write quantization: none, or leave it out",
        )


def _path_problems(experiment: Experiment, problem: Any) -> Iterator[Problem]:
    paths = experiment.paths
    files: dict[KeyPath, str] = {
        ("paths", "train_file"): paths.train_file,
        ("paths", "eval_file"): paths.eval_file,
    }
    if paths.contract_file is not None:
        files["paths", "contract_file"] = paths.contract_file
    for name, suite in paths.suites.items():
        files["paths", "suites", name] = suite
    for key, relative in files.items():
        try:
            path = experiment.path(relative)
        except ExperimentError as error:
            yield problem(key, str(error))
            continue
        if not path.is_file():
            yield problem(key, f"found {relative!r}, but there is no such file in {str(experiment.root)!r}")
    try:
        if experiment.path(paths.output_dir) == experiment.root:
            yield problem(("paths", "output_dir"), "is the project itself; name a folder in it")
    except ExperimentError as error:
        yield problem(("paths", "output_dir"), str(error))
    held_out = [paths.eval_file, *paths.suites.values()]
    if paths.train_file in held_out:
        yield problem(
            ("paths", "eval_file"),
            f"found {paths.train_file!r}, which is the training file: held-out rows must never be trained on",
        )
