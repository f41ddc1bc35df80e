"""What answers: the base model and its digests, the runtimes, and the environment that answers and weights hang on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.fingerprint import base_digest, base_folder, package_versions
from pytest_finetune.memory.hardware.detect import detect
from pytest_finetune.memory.hardware.detect import device_class as kind_of

if TYPE_CHECKING:
    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.experiment import Experiment, Generation
    from pytest_finetune.fingerprint import BaseDigest
    from pytest_finetune.suite.run import ExperimentRun


class BaseModel:
    """The untouched base model, loaded when it is first used."""

    def __init__(self, runtime: Runtime, generation: Generation) -> None:
        self._runtime = runtime
        self._generation = generation

    @property
    def model(self) -> Any:
        """The loaded model, in evaluation mode."""
        return self._runtime.model  # type: ignore[attr-defined]

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self._runtime.tokenizer  # type: ignore[attr-defined]

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Answer prompts, exactly as given, with the experiment's generation settings; raw text comes back."""
        asked = [Prompted(str(number), number, prompt) for number, prompt in enumerate(prompts, 1)]
        return [answer.response for answer in self._runtime.answer(asked, self._generation, None)]


def runtime_for(run: ExperimentRun, name: str, experiment: Experiment | None = None) -> Runtime:
    """Ask the registered runtimes for the one of that name; the Hugging Face one is built in."""
    experiment = experiment or run.experiment
    found = run.session.config.hook.pytest_finetune_runtime(
        name=name,
        experiment=experiment,
        base=base_name(run, experiment),
        device=run.session.device,
        store=run.session.store,
    )
    if found is None:
        raise AnsweringError(
            f"runtimes: {name!r} is not known: 'transformers' is built in; pytest_finetune_runtime adds another"
        )
    return found  # type: ignore[no-any-return]


def base_name(run: ExperimentRun, experiment: Experiment | None = None) -> str:
    """Return what loaders take: the base model's folder, or its hub id."""
    experiment = experiment or run.experiment
    local = experiment.local_base()
    return str(local) if local is not None else experiment.base_model


def base_of(run: ExperimentRun, experiment: Experiment | None = None) -> BaseDigest:
    """Return the base model's digests; refuses a base without weights or with pickles only."""
    experiment = experiment or run.experiment
    folder = base_folder(experiment)
    trust = experiment.trust_remote_code
    own = experiment is run.experiment
    name = "the base model" if own else f"the base model {experiment.base_model}"
    return run.once(name, lambda: base_digest(folder, run.session.store, trust_remote_code=trust))


def environment_of(run: ExperimentRun) -> dict[str, str]:
    """Return the package versions, device class and dtype that answers and weights depend on; imports no torch."""
    return {**package_versions(), "device": device_class(run), "dtype": dtype_class(run)}


def device_class(run: ExperimentRun) -> str:
    """Return ``cpu``, or the kind of device with its model: two cards of one model give the same numbers."""
    kind = kind_of(run.session.device)
    if kind == "cpu":
        return "cpu"
    return f"{kind}:{run.once('the device', lambda: detect(run.session.device, run.session.store.root)).name}"


def dtype_class(run: ExperimentRun) -> str:
    """Return the compute dtype; on CUDA the card decides between bfloat16 and float16, and it stands in the key."""
    return "card" if run.session.device.startswith("cuda") else "float32"
