"""The joins are exact: they find what comparing every pair finds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune.data.corpus import Corpus, Vocabulary
from pytest_finetune.data.similarity import (
    contained_across,
    similar_across,
    similar_within,
)
from pytest_finetune.data.words import jaccard, shingles, words_of

WORDS = st.lists(st.sampled_from("abcdef"), max_size=12)
TEXTS = st.lists(WORDS, max_size=12)
THRESHOLDS = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])


def corpus(texts: list[list[str]], vocabulary: Vocabulary) -> Corpus:
    made = Corpus(vocabulary)
    for words in texts:
        made.add(words)
    return made


@settings(max_examples=300, deadline=None)
@given(held_out=TEXTS, train=TEXTS, size=st.integers(1, 4), threshold=THRESHOLDS)
def test_similar_pairs_across_files_are_those_of_comparing_all(
    held_out: Any, train: Any, size: int, threshold: float
) -> None:
    vocabulary = Vocabulary()
    found = similar_across(corpus(held_out, vocabulary), corpus(train, vocabulary), size, threshold)
    wanted = []
    for i, left in enumerate(held_out):
        for j, right in enumerate(train):
            similarity = jaccard(shingles(left, size), shingles(right, size))
            if similarity >= threshold:
                wanted.append((i, j, similarity))
    assert sorted(found) == wanted


@settings(max_examples=300, deadline=None)
@given(held_out=TEXTS, train=TEXTS, size=st.integers(2, 4), share=THRESHOLDS)
def test_contained_texts_are_those_of_comparing_all(
    held_out: Any, train: Any, size: int, share: float
) -> None:
    vocabulary = Vocabulary()
    found = contained_across(corpus(held_out, vocabulary), corpus(train, vocabulary), size, share)
    wanted = set()
    for i, left in enumerate(held_out):
        grams = shingles(left, size)
        for j, right in enumerate(train):
            if len(left) >= size and len(grams & shingles(right, size)) / len(grams) >= share:
                wanted.add((i, j))
    assert {(pair.left, pair.right) for pair in found} == wanted


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, size=st.integers(1, 4), threshold=THRESHOLDS, data=st.data())
def test_repetitions_in_a_file_are_those_of_keeping_the_first(
    texts: Any, size: int, threshold: float, data: Any
) -> None:
    skip = data.draw(st.sets(st.sampled_from(range(len(texts))))) if texts else set()
    found = similar_within(corpus(texts, Vocabulary()), size, threshold, skip)
    kept: list[int] = []
    wanted = {}
    for number, words in enumerate(texts):
        if number in skip or not words:
            continue
        own = shingles(words, size)
        twin = next(
            (other for other in kept if jaccard(own, shingles(texts[other], size)) >= threshold), None
        )
        if twin is None:
            kept.append(number)
        else:
            wanted[number] = twin
    assert found.complete
    assert {pair.right: pair.left for pair in found.pairs} == wanted


def test_the_order_of_words_matters_and_their_form_does_not() -> None:
    assert (
        words_of("The CAF\u00c9, \uff12 times")
        == words_of("the caf\u00e9 2 times")
        == ["the", "caf\u00e9", "2", "times"]
    )
    one, two = words_of("a b c d e"), words_of("e d c b a")
    assert jaccard(shingles(one, 3), shingles(two, 3)) == 0.0


@given(text=st.text())
def test_words_are_stable(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert words_of(text.upper().lower()) == words_of(text.upper().lower().lower())
