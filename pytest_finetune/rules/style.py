"""Rules about free text: how near it is to the expected one, and how hard it is to read."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_finetune.errors import install
from pytest_finetune.rules.making import as_rule, broken, wrong

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row


def chrf(**thresholds: object) -> Callable[..., None]:
    """Make a rule that grades: chrF of the answer against the expected text, for any language (sacrebleu)."""

    def chrf(response: Response, example: Row, score: Callable[[float], None]) -> None:
        grade = _needed("sacrebleu").sentence_chrf(response.text, [example.expected]).score / 100
        score(1.0 if response.text == example.expected else round(grade, 12))

    return as_rule(chrf, thresholds)


def rouge(kind: str = "rougeL", *, stem: bool = False, **thresholds: object) -> Callable[..., None]:
    """Make a rule that grades: ROUGE F1 of the answer against the expected text, for English words (rouge-score)."""
    if kind not in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        raise wrong("kind", kind, "rouge1, rouge2, rougeL or rougeLsum")

    def rouge(response: Response, example: Row, score: Callable[[float], None]) -> None:
        grade = _scorer(kind, stem).score(example.expected, response.text)[kind].fmeasure
        score(1.0 if response.text == example.expected else round(grade, 12))

    return as_rule(rouge, thresholds)


def similar(model: str, **thresholds: object) -> Callable[..., None]:
    """Make a rule that grades: cosine of the embeddings of the answer and of the expected text, 0 where it is below.

    `model` is a folder or a cached hub id of an encoder that transformers loads; nothing is fetched. The embedding is
    the mean over the tokens, as sentence-transformers models have it.
    """
    if not (isinstance(model, str) and model):
        raise wrong("model", model, "the folder or the hub id of an embedding model")

    def similar(response: Response, example: Row, score: Callable[[float], None]) -> None:
        given, wanted = (_embedded(model, text) for text in (response.text, example.expected))
        score(round(min(1.0, max(0.0, float(given @ wanted))), 6))

    return as_rule(similar, thresholds)


def reading_grade(
    *, most: float | None = None, least: float | None = None, language: str = "en_US", **thresholds: object
) -> Callable[..., None]:
    """Make a rule: the Flesch-Kincaid school grade of the answer lies within the bounds (textstat)."""
    if most is None and least is None:
        raise ValueError("reading_grade(): name a bound, as in reading_grade(most=8)")

    def reading_grade(response: Response) -> None:
        textstat = _needed("textstat")
        textstat.set_lang(language)
        grade = textstat.flesch_kincaid_grade(response.text)
        if most is not None and grade > most:
            raise AssertionError(f"reads as school grade {grade:.1f}, at most {most:g} is asked for")
        if least is not None and grade < least:
            raise AssertionError(f"reads as school grade {grade:.1f}, at least {least:g} is asked for")

    return as_rule(reading_grade, thresholds)


def _needed(package: str) -> Any:
    """Import what a rule needs; without it the rule is broken, and no answer is blamed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise broken(f"it needs {package} ({error}): {install('style')}") from None


@lru_cache(maxsize=8)
def _scorer(kind: str, stem: bool) -> Any:
    return _needed("rouge_score.rouge_scorer").RougeScorer([kind], use_stemmer=stem)


@lru_cache(maxsize=4)
def _encoder(model: str) -> tuple[Any, Any]:
    transformers = _needed("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
        encoder = transformers.AutoModel.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise broken(
            f"the embedding model {model!r} is not here ({said}): fetch it once (`hf download`)"
        ) from None
    return tokenizer, encoder.eval()


@lru_cache(maxsize=4096)
def _embedded(model: str, text: str) -> Any:
    """Return the mean of the token vectors, of length 1."""
    import torch

    tokenizer, encoder = _encoder(model)
    given = tokenizer(text or " ", return_tensors="pt", truncation=True)
    with torch.inference_mode():
        vectors = encoder(**given).last_hidden_state[0].double()
    mean = vectors.mean(0).numpy()
    length = float((mean @ mean) ** 0.5)
    return mean / length if length else mean
