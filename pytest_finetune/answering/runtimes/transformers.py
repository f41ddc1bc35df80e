"""Answer with transformers: one loaded base, an adapter put on for its answers and taken off again."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted, Rendered
from pytest_finetune.answering.runtimes.attach import attach, check_whole_model, detach
from pytest_finetune.answering.runtimes.constrained import Constrained, GrammarProcessor
from pytest_finetune.answering.runtimes.divergence import Forward, Spoken, token_kl
from pytest_finetune.answering.runtimes.encoding import Encoded, Encoder
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.answering.runtimes.shared_prefix import SharedPrefix, shared_prefix
from pytest_finetune.experiment import Generation
from pytest_finetune.training.artifact import is_whole_model
from pytest_finetune.training.base import BaseSource
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


_SHOWN = 20


class TransformersRuntime:
    """A base model held in memory, loaded when it is first needed.

    `model` and `tokenizer` are the base's own: an adapter is on the model only while its answers are made.
    """

    constrains = True
    heard: Callable[[int, int], None] | None = None
    """Hears after each batch how many answers are there, and of how many prompts."""

    def __init__(
        self,
        base: str,
        revision: str | None = None,
        device: str = "cpu",
        quantization: str = "none",
        *,
        trust_remote_code: bool = False,
        generation: Generation | None = None,
        dtype: str | None = None,
        attention: str | None = None,
    ) -> None:
        """Remember what to load; `generation` are the settings of `generate`.

        `dtype` None leaves it to the device, `attention` None to the architecture.
        """
        revision = None if Path(base).is_dir() else revision
        self._source = BaseSource(base, revision, quantization, trust_remote_code, dtype, attention)
        self._device = device
        self._generation = generation or Generation()
        self._model: PreTrainedModel | None = None
        self._stops: frozenset[int] = frozenset()
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._grammar: Constrained | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The base model, in eval mode."""
        if self._model is None:
            from transformers import GenerationConfig

            from pytest_finetune.training.model import load_model, pad_inside, stop_ids

            with surroundings(offline=self._source.local):
                self._model = load_model(self._source, self._device)
                self._stops = stop_ids(self._model, self.tokenizer)
                pad_inside(self.tokenizer, self._model)
                # What the model's folder sets (a repetition penalty, sampling) would fill in whatever the
                # experiment leaves open: only the experiment speaks.
                self._model.generation_config = GenerationConfig(eos_token_id=sorted(self._stops))
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        if self._tokenizer is None:
            from pytest_finetune.training.model import load_tokenizer

            with surroundings(offline=self._source.local):
                self._tokenizer = load_tokenizer(self._source)
        return self._tokenizer

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self._source.name)

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Return the base model's answer to each prompt."""
        asked = [Prompted(f"prompt {number}", number, prompt) for number, prompt in enumerate(prompts, 1)]
        return [answer.response for answer in self.answer(asked, self._generation)]

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order; `adapter` is a folder, None asks the base alone.

        Prompts are batched longest first (equal lengths in their order) and padded on the left, behind what all of
        them begin with, so the batches depend on the prompts and the batch size alone. Raises AnsweringError for a
        prompt that leaves no room for the answer.
        """
        answers = self._answers(prompts, generation, adapter, range(len(prompts)))
        return [answers[at] for at in range(len(prompts))]

    def answer_again(
        self,
        prompts: Sequence[Prompted],
        rows: Sequence[int],
        generation: Generation,
        adapter: Path | None = None,
    ) -> list[Answer]:
        """Return the answers at these positions of `prompts`, as if all had been asked: in the same batches."""
        answers = self._answers(prompts, generation, adapter, rows)
        return [answers[at] for at in rows]

    def _answers(
        self,
        prompts: Sequence[Prompted],
        generation: Generation,
        adapter: Path | None,
        wanted: Container[int],
    ) -> dict[int, Answer]:
        """Answer every batch that holds a wanted position."""
        if not prompts:
            return {}
        encoded = [self._encoder.encoded(asked, at) for at, asked in enumerate(prompts)]
        self._check_tokens(encoded)
        self._check_room(encoded, generation)
        order = sorted(encoded, key=lambda item: (-len(item.ids), item.at))
        size = generation.batch_size
        answers: dict[int, Answer] = {}
        with surroundings(offline=self._source.local), self._with_adapter(adapter) as model:
            prefix = shared_prefix(model, [item.ids for item in encoded])
            for number, start in enumerate(range(0, len(order), size)):
                batch = order[start : start + size]
                if any(item.at in wanted for item in batch):
                    answers.update(
                        self._answer_batch(model, batch, prefix, generation, generation.seed + number)
                    )
                    if self.heard is not None:
                        self.heard(len(answers), len(order))
        return answers

    def token_kl(
        self, prompts: Sequence[Prompted], answers: Sequence[Answer], adapter: Path
    ) -> list[tuple[float, ...]]:
        """Return KL(base || tuned) in nats at each token of the base's own answers to `prompts`.

        The answers are their texts' tokens, at most as many as were generated.
        """
        spoken = [self._spoken(asked, said) for asked, said in zip(prompts, answers, strict=True)]
        with surroundings(offline=self._source.local), self._both(adapter) as (base, tuned):
            return [token_kl(one, base, tuned, self._device) for one in spoken]

    def release(self) -> None:
        """Give the model's memory back; the next answer loads it again."""
        if self._model is None:
            return
        self._model = None
        gc.collect()
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _decoded(self, item: Encoded, ids: list[int]) -> str:
        """Return the text, without special tokens but those that tell an answer from what is written around it."""
        tokenizer = self.tokenizer
        rendered = isinstance(item.asked.prompt, Rendered)
        shown: tuple[str, ...] = ()
        if tokenizer.chat_template and (rendered or not isinstance(item.asked.prompt, str)):
            chat = self._encoder.chat(item.asked.arguments)
            shown = (*chat.reading.special, *(chat.call_tokens if rendered or item.asked.tools else ()))
        if shown:
            hidden = set(tokenizer.all_special_ids) | {
                at for at, token in tokenizer.added_tokens_decoder.items() if token.special
            }
            hidden -= set(tokenizer.convert_tokens_to_ids(list(shown)))
            ids = [at for at in ids if at not in hidden]
        decoded = tokenizer.decode(ids, skip_special_tokens=not shown, clean_up_tokenization_spaces=False)
        return str(decoded)

    def _spoken(self, asked: Prompted, said: Answer) -> Spoken:
        ids = self.tokenizer(text=said.written, add_special_tokens=False)["input_ids"]
        return Spoken(self._encoder.encoded(asked).ids, ids[: said.tokens], said.stopped)

    @staticmethod
    def _check_tokens(encoded: Sequence[Encoded]) -> None:
        empty = next((item.asked for item in encoded if not item.ids), None)
        if empty is not None:
            raise AnsweringError(f"{empty.id} (line {empty.line}): the prompt has no token")

    def _check_room(self, encoded: Sequence[Encoded], generation: Generation) -> None:
        from pytest_finetune.training.model import context_tokens

        context = context_tokens(self.model)
        if context is None:
            return
        room = context - generation.max_new_tokens
        long = [item for item in encoded if len(item.ids) > room]
        if not long:
            return
        lines = [
            f"  {item.asked.id} (line {item.asked.line}): {len(item.ids)} tokens" for item in long[:_SHOWN]
        ]
        if len(long) > _SHOWN:
            lines.append(f"  and {len(long) - _SHOWN} more")
        raise AnsweringError(
            f"{len(long)} of {len(encoded)} prompts leave no room for the answer: the model attends to "
            f"{context} tokens, and max_new_tokens {generation.max_new_tokens} leaves {room} for the prompt\n"
            + "\n".join(lines)
            + "\n  shorten these rows, lower prompt.few_shot or generation.max_new_tokens, or take a base "
            "model with a longer context"
        )

    @contextlib.contextmanager
    def _with_adapter(self, folder: Path | None) -> Iterator[PreTrainedModel]:
        """Put the adapter on the base for the block; afterwards the base has its own modules back."""
        if folder is None:
            yield self.model
            return
        if is_whole_model(folder):
            yield from self._in_its_place(folder)
            return
        try:
            wrapped = attach(self.model, folder)
        except BaseException:
            self.release()
            raise
        try:
            yield wrapped
        finally:
            self._model = detach(wrapped)

    @contextlib.contextmanager
    def _both(self, folder: Path) -> Iterator[tuple[Forward, Forward]]:
        """Give the base and the tuned model as functions: the adapter off and on, or two whole models."""
        if is_whole_model(folder):
            from pytest_finetune.training.model import load_model

            check_whole_model(folder)
            yield self.model, load_model(self._whole(folder), self._device)
            return
        with self._with_adapter(folder) as wrapped:

            def base(**inputs: object) -> object:
                with wrapped.disable_adapter():
                    return wrapped(**inputs)

            yield base, wrapped

    def _whole(self, folder: Path) -> BaseSource:
        """Return the source of a model that was trained in full."""
        return BaseSource(str(folder), attention=self._source.attention)

    def _in_its_place(self, folder: Path) -> Iterator[PreTrainedModel]:
        """Yield a model that was trained in full; the base is let go first, and loaded anew when it is asked."""
        from transformers import GenerationConfig

        from pytest_finetune.training.model import load_model

        check_whole_model(folder)
        self.release()
        model = load_model(self._whole(folder), self._device)
        model.generation_config = GenerationConfig(eos_token_id=sorted(self._stops))
        yield model

    def _answer_batch(
        self,
        model: PreTrainedModel,
        batch: Sequence[Encoded],
        prefix: SharedPrefix,
        generation: Generation,
        seed: int,
    ) -> Iterator[tuple[int, Answer]]:
        import torch

        inputs = self._padded(batch, prefix.tokens)
        settings = _settings(generation, self.tokenizer, sorted(self._stops))
        processors = self._processors(generation, len(batch))
        # Sampling starts anew in every batch: an answer does not depend on the batches before it.
        torch.manual_seed(seed)
        started = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                **prefix.given(len(batch)),
                generation_config=settings,
                logits_processor=processors,
            )
        seconds = (time.perf_counter() - started) / len(batch)
        fresh = output[:, inputs["input_ids"].shape[1] :].tolist()
        for item, ids in zip(batch, fresh, strict=True):
            yield item.at, self._answer_of(item, ids, seconds)

    def _processors(self, generation: Generation, batch_size: int) -> list[GrammarProcessor]:
        if not generation.constrain:
            return []
        if self._grammar is None:
            self._grammar = Constrained(self.tokenizer, self._stops)
        return [self._grammar.processor(generation.constrain, batch_size)]

    def _padded(self, batch: Sequence[Encoded], shared: int) -> dict[str, torch.Tensor]:
        """Return the prompts as one batch, padded behind the tokens that they share."""
        import torch

        longest = max(len(item.ids) for item in batch)
        pad = self.tokenizer.pad_token_id
        missing = [longest - len(item.ids) for item in batch]
        ids = [
            [*item.ids[:shared], *[pad] * gap, *item.ids[shared:]]
            for item, gap in zip(batch, missing, strict=True)
        ]
        mask = [[1] * shared + [0] * gap + [1] * (longest - shared - gap) for gap in missing]
        return {
            "input_ids": torch.tensor(ids, device=self._device),
            "attention_mask": torch.tensor(mask, device=self._device),
        }

    def _answer_of(self, item: Encoded, ids: list[int], seconds: float) -> Answer:
        end = next((at for at, token in enumerate(ids) if token in self._stops), None)
        kept = ids if end is None else ids[:end]
        response = self._decoded(item, kept)
        return Answer(
            id=item.asked.id,
            line=item.asked.line,
            prompt=item.text,
            response=response,
            tokens=len(kept),
            seconds=seconds,
            stopped=end is not None,
        )


def _settings(
    generation: Generation, tokenizer: PreTrainedTokenizerBase, stops: list[int]
) -> GenerationConfig:
    """Return the experiment's settings as transformers has them."""
    from transformers import GenerationConfig

    sampling = (
        {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
        if generation.do_sample
        else {}
    )
    return GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        do_sample=generation.do_sample,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **sampling,
    )
