"""What answers: the base model and its digests, the runtimes, and the environment that both depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.protocol import AnsweringError, DescribedRuntime
from pytest_finetune.data.chat import chat_of
from pytest_finetune.data.tokens import token_counter
from pytest_finetune.fingerprint import base_digest, base_folder, digest, package_versions
from pytest_finetune.memory.hardware.detect import detect, device_class
from pytest_finetune.suite.parts import Parts, part

if TYPE_CHECKING:
    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.data.chat import Chat
    from pytest_finetune.experiment import Experiment, Generation
    from pytest_finetune.fingerprint import BaseDigest
    from pytest_finetune.suite.context import Context


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


class Engine:
    """The runtimes of one experiment, its base model's digests, and the environment here; loads nothing by itself."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.runtimes: Parts[str, Runtime] = Parts(lambda name: f"runtime {name}")
        self._chats: Parts[str, Chat | None] = Parts(lambda asked: f"chat template {asked[:12]}")
        self._counters: Parts[str, Callable[[str], int]] = Parts(lambda base: f"tokenizer of {base}")
        self._identities: Parts[tuple[str, Path | None], Mapping[str, Any]] = Parts(
            lambda key: f"identity of {key[0]}"
        )

    @part
    def the_base_model(self) -> BaseDigest:
        """The digests of the experiment's own base model."""
        return self._digest(self._context.experiment)

    def chat(self, experiment: Experiment) -> Chat | None:
        """Return the chat template of an experiment's base; None where it asks with text, or the base is not here."""
        asked = digest([experiment.base_model, experiment.revision, experiment.prompt])
        return self._chats.once(asked, lambda: chat_of(experiment))

    def tokens(self, experiment: Experiment) -> Callable[[str], int]:
        """Return what counts a text's tokens with an experiment's base; its words without a fast tokenizer."""
        return self._counters.once(experiment.base_model, lambda: token_counter(base_folder(experiment)))

    def base(self, experiment: Experiment) -> BaseDigest:
        """Return a base model's digests; refuses a base without weights or with pickles only."""
        own = experiment is self._context.experiment
        return self.the_base_model if own else self._digest(experiment)

    def _digest(self, experiment: Experiment) -> BaseDigest:
        trust = experiment.trust_remote_code
        return base_digest(base_folder(experiment), self._context.store, trust_remote_code=trust)

    def runtime(self, name: str) -> Runtime:
        """Return a runtime of the experiment; it loads its model when it is first asked."""
        return self.runtimes.once(name, lambda: self._runtime(name, self._context.experiment))

    def runtime_of(self, experiment: Experiment, name: str) -> Runtime:
        """Return the runtime of that name for an experiment's base; one with another base has the memory of ours."""
        own = self.runtime(name)
        if experiment is self._context.experiment:
            return own
        own.release()
        return self._runtime(name, experiment)

    def _runtime(self, name: str, experiment: Experiment) -> Runtime:
        """Ask the registered runtimes for the one of that name; the Hugging Face one is built in."""
        context = self._context
        found: Runtime | None = context.hooks.pytest_finetune_runtime(
            name=name,
            experiment=experiment,
            base=base_name(experiment),
            device=context.device,
            store=context.store,
        )
        if found is None:
            raise AnsweringError(
                f"runtimes: {name!r} is not known: 'transformers' is built in; pytest_finetune_runtime adds another"
            )
        return found

    def about(self, name: str, adapter: Path | None) -> Mapping[str, Any]:
        """Return what a runtime with settings says of itself; empty for one without."""
        if name not in self._context.experiment.runtime_settings:
            return {}
        runtime = self.runtime(name)
        if not isinstance(runtime, DescribedRuntime):
            return {}
        return self._identities.once((name, adapter), lambda: runtime.about(adapter))

    def release(self, names: Iterable[str]) -> None:
        """Let runtimes that were made give back their memory, or stop their server."""
        for name in names:
            if name in self.runtimes:
                self.runtimes[name].release()

    @part
    def the_environment(self) -> Mapping[str, str]:
        """The package versions, device class and dtype that answers and weights depend on; imports no torch."""
        return {**package_versions(), "device": self.the_device, "dtype": self.dtype}

    @part
    def the_device(self) -> str:
        """``cpu``, or the kind of device with its model: two cards of one model give the same numbers.

        Of a step that runs elsewhere, the device that it is asked on.
        """
        jobs = self._context.jobs
        if jobs is not None and jobs.device is not None:
            return jobs.device
        kind = device_class(self._context.device)
        if kind == "cpu":
            return "cpu"
        return f"{kind}:{detect(self._context.device, self._context.store.root).name}"

    @property
    def dtype(self) -> str:
        """The compute dtype; on CUDA the card decides between bfloat16 and float16, and it stands in the key."""
        return "card" if self.the_device.startswith("cuda") else "float32"


def base_name(experiment: Experiment) -> str:
    """Return what loaders take: the base model's folder, or its hub id."""
    local = experiment.local_base()
    return str(local) if local is not None else experiment.base_model
