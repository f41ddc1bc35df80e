"""What no schema can see in an experiment file: keys that contradict each other, and files that are not there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pytest_finetune.experiment.data_sets import NO_FILE, naming_problem
from pytest_finetune.experiment.launcher import unshardable, unshared
from pytest_finetune.experiment.missing_files import no_such_file
from pytest_finetune.experiment.records import Experiment, ExperimentError, schema
from pytest_finetune.experiment.runtimes import GgufSettings, ServerSettings, mistakes
from pytest_finetune.experiment.serve_command import untaken
from pytest_finetune.experiment.template import template_mistake
from pytest_finetune.yamlfile import Json, KeyPath, Problem, YamlFile, dotted

Say = Callable[[KeyPath, str], Problem]


def contradictions(file: YamlFile, tree: Json, experiment: Experiment) -> Iterator[Problem]:
    """Yield what each key allows but all of them together do not, and files that are not there."""

    def problem(path: KeyPath, text: str) -> Problem:
        return Problem(file.line_of(path), dotted(path), text)

    yield from _method_problems(tree, experiment, problem)
    yield from _prompt_problems(experiment, problem)
    yield from _arm_problems(experiment, problem)
    yield from _training_problems(experiment, problem)
    yield from _seed_problems(tree, experiment, problem)
    yield from _runtime_problems(tree, experiment, problem)
    yield from _adapter_file_problems(experiment, problem)
    yield from _path_problems(experiment, problem)


_RESERVED: Final = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "return_dict",
    }
)
"""What rendering gives a chat template itself."""


def _prompt_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
    prompt = experiment.prompt
    if prompt.template != "chat" and (text := template_mistake(prompt.template)):
        yield problem(("prompt", "template"), text)
    if prompt.chat_template_kwargs and prompt.template != "chat":
        text = f"is given to no chat template: prompt.template is {prompt.template!r}, write chat or leave it out"
        yield problem(("prompt", "chat_template_kwargs"), text)
    for name in sorted(prompt.chat_template_kwargs.keys() & _RESERVED):
        text = f"{name!r} is given by the plugin itself: only what the template asks for besides can be set"
        yield problem(("prompt", "chat_template_kwargs", name), text)
    for number, candidate in enumerate(prompt.candidates):
        if text := template_mistake(candidate):
            yield problem(("prompt", "candidates", number), text)
    if experiment.generation.constrain and experiment.paths.contract_file is None:
        text = "'contract' needs paths.contract_file, whose output.schema or labels every answer then follows"
        yield problem(("generation", "constrain"), text)
    first = experiment.runtimes[0]
    if experiment.generation.constrain and first in experiment.runtime_settings:
        text = (
            f"'contract' needs transformers, and the decision is made in {first!r}, which decodes freely: write "
            "transformers first in runtimes, or leave constrain out"
        )
        yield problem(("generation", "constrain"), text)


def _training_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
    own = {key for key in schema()["properties"]["training"]["properties"] if key != "sft"} | {"max_length"}
    for key in experiment.training.sft:
        if key in own:
            plain = "max_seq_length" if key == "max_length" else key
            yield problem(("training", "sft", key), f"has a key of its own: write training.{plain}")
    if experiment.training.assistant_turns == "all":
        if experiment.prompt.template != "chat":
            text = "needs prompt.template: chat; a template of text has one answer, the last"
            yield problem(("training", "assistant_turns"), text)
        if "assistant_only_loss" in experiment.training.sft:
            text = "contradicts assistant_turns: all, which finds the answers itself; leave one of them out"
            yield problem(("training", "sft", "assistant_only_loss"), text)
    if experiment.training.keep == "best" and not experiment.has_dev_rows:
        text = (
            "'best' needs rows to choose on: name them in paths.dev_file, or set training rows aside with "
            "split: {dev: 0.1}. Held-out rows judge, and what is chosen on them they can judge no more"
        )
        yield problem(("training", "keep"), text)
    replay, template = experiment.training.replay, experiment.prompt.template
    if (
        replay is not None
        and replay.prompts == "neutral"
        and template != "chat"
        and "{instruction}" not in template
    ):
        text = (
            "'neutral' prompts bring their own instruction, and prompt.template shows no {instruction}: name a file of "
            "prompts that can be asked through it"
        )
        yield problem(("training", "replay", "prompts"), text)
    yield from _launcher_problems(experiment, problem)


def _seed_problems(tree: Json, experiment: Experiment, problem: Say) -> Iterator[Problem]:
    training = tree["training"]
    seeds = training.get("seeds") or []
    if seeds and "seed" in training:
        text = f"found {training['seed']!r} beside seeds {seeds}: leave one of the two out"
        yield problem(("training", "seed"), text)
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        text = f"found {seeds}: a seed gives one adapter, and {', '.join(map(str, twice))} stands there twice"
        yield problem(("training", "seeds"), f"{text}; name each once")
    if len(seeds) < 2:
        return
    if experiment.trained is not None:
        text = (
            f"contradicts trained.adapter {experiment.trained!r}, which is one adapter and not trained here"
        )
        yield problem(("training", "seeds"), f"{text}; leave one of them out")
    first = experiment.runtime_settings.get(experiment.runtimes[0])
    if isinstance(first, ServerSettings) and first.knows_two_models:
        text = f"this server has two models, the base and the tuned one: it cannot answer for {len(seeds)} adapters"
        yield problem(("runtimes", 0), f"{text}; start it by a command with {{model}}, or name one seed")


_WHOLE_OR_SHARED: Final = "each process holds the whole model, or with training.shard: true its share of one"
# Arguments of SFTConfig that would deal out other rows, weigh them otherwise, or start the processes in another way.
_ONE_PROCESS: Final = {
    "accelerator_config": "the rows are dealt out as one process would see them",
    "auto_find_batch_size": "the processes share the batch that is written down",
    "average_tokens_across_devices": "the loss is that of one process: a mean over the tokens of all",
    "dataloader_drop_last": "every row is trained on, as in one process",
    "ddp_backend": "nccl on GPUs and gloo on CPUs are chosen by the device",
    "deepspeed": _WHOLE_OR_SHARED,
    "fsdp": _WHOLE_OR_SHARED,
    "fsdp_config": _WHOLE_OR_SHARED,
    "parallelism_config": _WHOLE_OR_SHARED,
    "train_sampling_strategy": "the rows come in the random order that one process would take",
}


def _launcher_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
    training = experiment.training
    if training.shard:
        yield from (problem(("training", "shard"), text) for text in unshardable(experiment))
    if training.launcher.processes == 1:
        return
    if text := unshared(training):
        yield problem(("training", "launcher", "processes"), text)
    for key in training.sft:
        if key in _ONE_PROCESS:
            text = f"contradicts launcher: {{processes: {training.launcher.processes}}}: {_ONE_PROCESS[key]}"
            yield problem(("training", "sft", key), f"{text}; leave one of them out")


_NO_ADAPTER_FILE: Final = {
    "full": "a full fine-tune has no adapter",
    "dora": "a GGUF adapter holds no DoRA magnitudes, so the server would answer without them",
}


def _adapter_file_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
    why = _NO_ADAPTER_FILE.get(experiment.peft_method)
    for number, name in enumerate(experiment.runtimes):
        settings = experiment.runtime_settings.get(name)
        if why and isinstance(settings, GgufSettings) and settings.adapter == "lora":
            text = f"'lora' contradicts peft_method: {experiment.peft_method}: {why}; leave `adapter` out"
            yield problem(("runtimes", number, "adapter"), text)


def _runtime_problems(tree: Json, experiment: Experiment, problem: Say) -> Iterator[Problem]:
    for at, entry in enumerate(tree.get("runtimes", ())):
        for mistake in mistakes(entry, first=at == 0):
            yield problem(("runtimes", at, *mistake.path), mistake.text)
        name = experiment.runtimes[at]
        if name in experiment.runtimes[:at]:
            yield problem(
                ("runtimes", at), f"{name!r} is the name of an earlier runtime: give each its own `name`"
            )
        if at and name in experiment.paths.suites:
            yield problem(("runtimes", at), f"{name!r} is the name of a suite too: give one of them another")
        settings = experiment.runtime_settings.get(name)
        if isinstance(settings, ServerSettings):
            for text in untaken(settings.serve, experiment.peft_method, experiment.lora.r):
                yield problem(("runtimes", at, "openai", "serve"), text)
    first = experiment.runtime_settings.get(experiment.runtimes[0])
    brought = [name for name, arm in experiment.arms.items() if arm.answers is None]
    if isinstance(first, ServerSettings) and first.knows_two_models and brought:
        text = f"this server has two models, the base and the tuned one: it cannot answer for the arm {brought[0]!r}"
        yield problem(
            ("runtimes", 0), f"{text}; start it by a command with {{model}}, or import the arm's answers"
        )


def _arm_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
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


_NAMES: Final = re.compile(r"[\w.]+(?:(?:\s*,\s*|\s+)[\w.]+)*")
"""Several names of modules in one text; a regular expression holds neither white space nor a comma between words."""


def _method_problems(tree: Json, experiment: Experiment, problem: Say) -> Iterator[Problem]:
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
    if method != "full" and tree.get("lora") is None and experiment.trained is None:
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
    modules = experiment.lora.target_modules
    if (
        isinstance(modules, str)
        and len(names := re.findall(r"[\w.]+", modules)) > 1
        and _NAMES.fullmatch(modules)
    ):
        text = f"found {modules!r}, which is read as one name: write [{', '.join(names)}]"
        yield problem(("lora", "target_modules"), text)
    if experiment.lora.changes_base and quantization != "none":
        yield problem(
            ("lora", "init_lora_weights"),
            f"{experiment.lora.init_lora_weights!r} takes the adapter's first weights out of the base, which a base "
            f"stored as {quantization} cannot give exactly: write quantization: none, or leave it out",
        )


def _path_problems(experiment: Experiment, problem: Say) -> Iterator[Problem]:
    paths = experiment.paths
    slashed = experiment.base_model.replace("\\", "/")
    if slashed != experiment.base_model:
        yield problem(("base_model",), f"found {experiment.base_model!r}: write it with slashes: {slashed}")
    of_rows: dict[KeyPath, str] = {("paths", *key): named for key, named in paths.of_rows().items()}
    further: dict[KeyPath, str] = {}
    if paths.contract_file is not None:
        further["paths", "contract_file"] = paths.contract_file
    if experiment.drift.prompts is not None:
        further["drift", "prompts"] = experiment.drift.prompts
    replay = experiment.training.replay
    if replay is not None and replay.prompts != "neutral":
        further["training", "replay", "prompts"] = replay.prompts
    for key, relative in {**of_rows, **further}.items():
        try:
            path = experiment.path(relative)
        except ExperimentError as error:
            yield problem(key, str(error))
            continue
        found = naming_problem(path, relative) if key in of_rows else None if path.is_file() else NO_FILE
        if found == NO_FILE:
            found = no_such_file(experiment.root, relative, [*of_rows.values(), *further.values()])
        if found:
            yield problem(key, f"found {relative!r}, but {found}")
    try:
        if experiment.path(paths.output_dir) == experiment.root:
            yield problem(("paths", "output_dir"), "is the project itself; name a folder in it")
    except ExperimentError as error:
        yield problem(("paths", "output_dir"), str(error))
    held_out = [paths.eval_file, *paths.suites.values()]
    if same := next((file for file in held_out if _is_one_of(experiment, file, [paths.train_file])), None):
        text = f"found {same!r}, which is the training file: held-out rows must never be trained on"
        yield problem(("paths", "eval_file"), text)
    yield from _dev_problems(experiment, held_out, problem)


def _dev_problems(experiment: Experiment, held_out: Sequence[str], problem: Say) -> Iterator[Problem]:
    dev = experiment.paths.dev_file
    if dev is None:
        return
    if experiment.split is not None:
        yield problem(("split",), f"contradicts paths.dev_file {dev!r}: leave one of them out")
    if _is_one_of(experiment, dev, held_out):
        text = f"found {dev!r}, which judges: what is chosen on held-out rows is not proven by them"
        yield problem(("paths", "dev_file"), f"{text}; take other rows, or write split: {{dev: 0.1}}")
    if _is_one_of(experiment, dev, [experiment.paths.train_file]):
        text = f"found {dev!r}, which is trained on: an adapter that learns rows by heart would look best"
        yield problem(("paths", "dev_file"), f"{text}; take other rows, or write split: {{dev: 0.1}}")


def _is_one_of(experiment: Experiment, file: str, others: Sequence[str]) -> bool:
    """Tell whether a file is one of the others, however it is written or linked."""
    if file in others:
        return True
    try:
        paths = [experiment.path(name) for name in (file, *others)]
    except ExperimentError:  # told of the key that names it
        return False
    return any(one.is_file() and paths[0].is_file() and one.samefile(paths[0]) for one in paths[1:])
