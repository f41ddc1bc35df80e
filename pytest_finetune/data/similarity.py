"""Find pairs of similar texts among millions, exactly: no signature is approximate, no similar pair is lost.

Two sets with Jaccard similarity t or more share at least one of their ``n - ceil(t n) + 1`` rarest elements
(the prefix filter: Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007). Rarity is counted in a table
of hash buckets, which is a fixed order and so keeps the filter exact. What passes must also agree in a
128-bit sketch: an element that only one set has flips at most one bit. Candidates are confirmed on the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.corpus import Corpus
from pytest_finetune.data.words import jaccard

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]
    from pytest_finetune.data.corpus import Hashes, Indices

# Texts of one file that share a rare n-gram are compared with so many neighbours at most: texts made from one
# template share everything, and comparing all with all is quadratic.
NEIGHBOURS: Final = 128

_MAX_BUCKETS: Final = 1 << 22
# Rarity is estimated on so many chunks of a file; the order is a fixed one whatever it is estimated on.
_SAMPLED: Final = 4
_PAIRS_AT_ONCE: Final = 1 << 20
# Against rounding in a product such as 0.7 * 10.
_EPSILON: Final = 1e-9


class Similar(NamedTuple):
    """Two texts by their index, and how similar they are (0 to 1)."""

    left: int
    right: int
    similarity: float


class Within(NamedTuple):
    """Similar pairs inside one file; `complete` is False when the texts were too alike to compare all."""

    pairs: list[Similar]
    complete: bool


class _Sets(NamedTuple):
    """Each text's set of n-grams: its rarest (hash, text), how many it has, and a sketch of it."""

    rarest: Hashes
    texts: Indices
    sizes: Indices
    sketches: Hashes


def similar_within(corpus: Corpus, size: int, threshold: float, skip: Iterable[int] = ()) -> Within:
    """Return, for each text that is similar to an earlier one, that pair; `skip` texts take no part.

    An earlier text that is itself a repetition is not compared with: after the right texts are removed no
    similar pair is left.
    """
    import numpy as np

    present = np.ones(len(corpus), dtype=bool)
    present[list(skip)] = False
    sets = _sets(corpus, size, threshold, _bucket_counts((corpus,), size), present)
    candidates, complete = _neighbours(sets, threshold)
    found: list[Similar] = []
    repeated: set[int] = set()
    for pair in candidates.tolist():
        left, right = pair & 0xFFFFFFFF, pair >> 32
        if left in repeated or right in repeated:
            continue
        similarity = jaccard(corpus.grams(left, size), corpus.grams(right, size))
        if similarity >= threshold:
            found.append(Similar(left, right, similarity))
            repeated.add(right)
    return Within(found, complete)


def similar_across(held_out: Corpus, train: Corpus, size: int, threshold: float) -> Iterator[Similar]:
    """Yield every pair (held-out text, training text) of at least that Jaccard similarity."""

    def can_be(left: _Sets, right: _Sets, pairs: tuple[Indices, Indices]) -> Mask:
        return _agree(left, right, pairs, threshold)

    for one, other in _pairs_across(held_out, train, size, threshold, can_be):
        similarity = jaccard(held_out.grams(one, size), train.grams(other, size))
        if similarity >= threshold:
            yield Similar(one, other, similarity)


def contained_across(held_out: Corpus, train: Corpus, size: int, share: float) -> Iterator[Similar]:
    """Yield every pair whose training text holds at least that share of the held-out text's n-grams.

    Held-out texts shorter than one n-gram are too short to be called copied and take no part.
    """
    lengths = held_out.starts[1:] - held_out.starts[:-1]

    def can_be(left: _Sets, right: _Sets, pairs: tuple[Indices, Indices]) -> Mask:
        missing = _bits(left.sketches[pairs[0]] & ~right.sketches[pairs[1]])
        long_enough: Mask = lengths[pairs[0]] >= size
        return long_enough & (missing <= (1 - share) * left.sizes[pairs[0]] + _EPSILON)

    for one, other in _pairs_across(held_out, train, size, share, can_be):
        grams = held_out.grams(one, size)
        held = len(grams & train.grams(other, size)) / len(grams)
        if held >= share:
            yield Similar(one, other, held)


def _pairs_across(
    held_out: Corpus,
    train: Corpus,
    size: int,
    share: float,
    can_be: Callable[[_Sets, _Sets, tuple[Indices, Indices]], Mask],
) -> Iterator[tuple[int, int]]:
    """Yield candidates: training texts with one of the held-out text's rarest n-grams, if sketches agree."""
    import numpy as np

    counts = _bucket_counts((held_out, train), size)
    tested = _sets(held_out, size, share, counts, np.ones(len(held_out), dtype=bool))
    order = np.argsort(tested.rarest, kind="stable")
    wanted, owners = tested.rarest[order], tested.texts[order]
    # Most n-grams of the training texts are in no held-out text: a bit table tells most of them apart.
    mask = np.uint64(_MAX_BUCKETS - 1)
    known = np.zeros(_MAX_BUCKETS, dtype=bool)
    known[wanted & mask] = True
    for low, high in train.chunks():
        hashes, texts = train.hashes(size, low, high)
        maybe = known[hashes & mask]
        first = np.searchsorted(wanted, hashes[maybe], side="left")
        number = np.searchsorted(wanted, hashes[maybe], side="right") - first
        if not number.any():
            continue
        trained = _described(hashes, texts - low, high - low)
        packed: list[Indices] = []
        for part in _parts(number):
            repeated = number[part]
            within = np.arange(repeated.sum()) - np.repeat(np.cumsum(repeated) - repeated, repeated)
            left = owners[np.repeat(first[part], repeated) + within]
            right = np.repeat(texts[maybe][part] - low, repeated)
            kept = can_be(tested, trained, (left, right))
            packed.append(np.unique(right[kept] << 32 | left[kept]))
        for pair in np.unique(np.concatenate(packed)).tolist():
            yield pair & 0xFFFFFFFF, (pair >> 32) + low


def _parts(number: Indices) -> Iterator[slice]:
    """Yield slices of a list of counts whose sums are small enough to be worked on at once."""
    import numpy as np

    ends = np.cumsum(number)
    start = 0
    while start < len(number):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def _neighbours(sets: _Sets, threshold: float) -> tuple[Indices, bool]:
    """Return candidate pairs, packed as ``right << 32 | left`` and sorted, and whether these are all."""
    import numpy as np

    order = np.argsort(sets.rarest, kind="stable")
    hashes, texts = sets.rarest[order], sets.texts[order]
    _, number = np.unique(hashes, return_counts=True)
    sharing = np.repeat(number, number)
    packed: list[Indices] = [np.zeros(0, dtype=np.int64)]
    complete = False
    for distance in range(1, NEIGHBOURS + 1):
        wide = sharing > distance
        hashes, texts, sharing = hashes[wide], texts[wide], sharing[wide]
        complete = not len(hashes)
        if complete:
            break
        same = hashes[distance:] == hashes[:-distance]
        left, right = texts[:-distance][same], texts[distance:][same]
        near = _agree(sets, sets, (left, right), threshold)
        packed.append(np.unique(right[near] << 32 | left[near]))
    return np.unique(np.concatenate(packed)), complete


def _agree(left: _Sets, right: _Sets, pairs: tuple[Indices, Indices], threshold: float) -> Mask:
    """Tell which pairs can have the Jaccard similarity, by their sizes and by how many sketch bits differ.

    With similarity t at most ``(1 - t) / (1 + t)`` of both sizes' sum stands in only one of the sets. Holds
    as well when the sizes on the right are upper bounds.
    """
    one, other = left.sizes[pairs[0]], right.sizes[pairs[1]]
    alone = (1 - threshold) / (1 + threshold) * (one + other) + _EPSILON
    fits: Mask = other >= threshold * one - _EPSILON
    return fits & (_bits(left.sketches[pairs[0]] ^ right.sketches[pairs[1]]) <= alone)


def _sets(corpus: Corpus, size: int, share: float, counts: Indices, present: Mask) -> _Sets:
    """Describe the texts that are `present`, with as many rarest n-grams as the prefix filter needs."""
    import numpy as np

    rarest: list[Hashes] = [np.zeros(0, dtype=np.uint64)]
    owners: list[Indices] = [np.zeros(0, dtype=np.int64)]
    sizes = np.zeros(len(corpus), dtype=np.int64)
    sketches = np.zeros((len(corpus), 2), dtype=np.uint64)
    for low, high in corpus.chunks():
        grams, texts = corpus.hashes(size, low, high)
        kept = present[texts]
        grams, texts = grams[kept], texts[kept] - low
        rarity = counts[grams & np.uint64(len(counts) - 1)].astype(np.uint64)
        order = np.argsort(rarity << np.uint64(40) | grams >> np.uint64(24))
        order = order[np.argsort(texts[order].astype(np.uint16), kind="stable")]
        grams, texts = _once(grams[order], texts[order])
        described = _described(grams, texts, high - low)
        sizes[low:high], sketches[low:high] = described.sizes, described.sketches
        number = described.sizes
        rank = np.arange(len(texts)) - np.repeat(np.cumsum(number) - number, number)
        needed = number - np.ceil(share * number - _EPSILON).astype(np.int64) + 1
        prefix = rank < needed[texts]
        rarest.append(grams[prefix])
        owners.append(texts[prefix] + low)
    return _Sets(np.concatenate(rarest), np.concatenate(owners), sizes, sketches)


def _once(grams: Hashes, texts: Indices) -> tuple[Hashes, Indices]:
    """Leave out repetitions of an n-gram in a text; equal ones stand side by side."""
    import numpy as np

    new = np.ones(len(grams), dtype=bool)
    new[1:] = (grams[1:] != grams[:-1]) | (texts[1:] != texts[:-1])
    return grams[new], texts[new]


def _described(grams: Hashes, texts: Indices, number: int) -> _Sets:
    """Return size and sketch of each of `number` texts; n-grams stand in text order, `texts` counts from 0.

    Repeated n-grams are counted in the size, which makes it an upper bound.
    """
    import numpy as np

    sizes = np.bincount(texts, minlength=number)
    sketches = np.zeros((number, 2), dtype=np.uint64)
    filled = sizes > 0
    if len(grams):
        begins = (np.cumsum(sizes) - sizes)[filled]
        bit = np.uint64(1) << (grams & np.uint64(63))
        half = grams & np.uint64(64)
        sketches[filled, 0] = np.bitwise_or.reduceat(np.where(half == 0, bit, np.uint64(0)), begins)
        sketches[filled, 1] = np.bitwise_or.reduceat(np.where(half == 0, np.uint64(0), bit), begins)
    return _Sets(grams, texts, sizes, sketches)


def _bits(words: Hashes) -> Indices:
    """Count the bits set in each row."""
    import numpy as np

    counts: Indices = _bits_of_16()[np.ascontiguousarray(words).view(np.uint16)].sum(axis=1, dtype=np.int64)
    return counts


@cache
def _bits_of_16() -> npt.NDArray[np.uint8]:
    import numpy as np

    values = np.arange(1 << 16)
    return sum(values >> bit & 1 for bit in range(16)).astype(np.uint8)  # type: ignore[union-attr]


def _bucket_counts(corpora: Sequence[Corpus], size: int) -> Indices:
    """Return how often the n-grams of each hash bucket occur, at most 2**24 - 1; 2**k buckets."""
    import numpy as np

    words = sum(len(corpus.ids) for corpus in corpora)
    buckets = min(_MAX_BUCKETS, 1 << (1 + words.bit_length()))
    counts = np.zeros(buckets, dtype=np.int64)
    for corpus in corpora:
        chunks = list(corpus.chunks())
        for low, high in chunks[:: max(1, len(chunks) // _SAMPLED)]:
            grams, _ = corpus.hashes(size, low, high)
            counts += np.bincount((grams & np.uint64(buckets - 1)).astype(np.int64), minlength=buckets)
    return np.minimum(counts, (1 << 24) - 1)
