"""Find pairs of similar texts among millions, exactly: no signature is approximate, no similar pair is lost.

Two sets with Jaccard similarity t or more share at least one of their ``n - ceil(t n) + 1`` rarest elements (the prefix
filter: Chaudhuri, Ganti, Kaushik 2006; Bayardo, Ma, Srikant 2007). Rarity is counted in a table of hash buckets, which
is any fixed order and so keeps the filter exact. Candidates are confirmed on the words themselves.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.data.words import jaccard, shingles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Indices = NDArray[np.int64]

# Rows whose grams are in memory at once.
_CHUNK: Final = 50_000
_MAX_BUCKETS: Final = 1 << 22
# Rarity is estimated on so many chunks of a file; the order stays exact whatever it is estimated on.
_SAMPLED: Final = 4
# Rows of one file that share a rare shingle are compared with so many neighbours at most, and all pairs are so many at
# most: texts made from one template share everything, and comparing all with all is quadratic.
NEIGHBOURS: Final = 64
MAX_PAIRS: Final = 4_000_000


class Vocabulary(dict[str, int]):
    """Numbers for words, given as they come."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class Corpus:
    """Many texts as word numbers: text i is ``ids[starts[i]:starts[i + 1]]``."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids = array("i")
        self._starts = array("q", [0])

    def add(self, words: Sequence[str]) -> None:
        """Append a text; not after `ids` or `starts` were asked for."""
        self._ids.extend(map(self._vocabulary.__getitem__, words))
        self._starts.append(len(self._ids))

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """Return the word numbers of all texts, one after another."""
        import numpy as np

        return np.frombuffer(self._ids, dtype=np.int32) if self._ids else np.zeros(0, np.int32)

    @cached_property
    def starts(self) -> Indices:
        """Return where each text begins in `ids`, and where the last one ends."""
        import numpy as np

        return np.frombuffer(self._starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1


class Similar(NamedTuple):
    """Two texts by their index, and how similar they are (0 to 1)."""

    left: int
    right: int
    similarity: float


class Within(NamedTuple):
    """Similar pairs inside one file; `complete` is False when the texts were too alike to compare all."""

    pairs: list[Similar]
    complete: bool


def similar_within(corpus: Corpus, size: int, threshold: float, skip: Iterable[int] = ()) -> Within:
    """Return, for each text that is similar to an earlier one, that pair; `skip` texts take no part.

    An earlier text that is itself a repetition is not compared with: after the right texts are removed no similar
    pair is left.
    """
    import numpy as np

    present = np.ones(len(corpus), dtype=bool)
    present[list(skip)] = False
    hashes, owners, sizes = _rarest(corpus, size, threshold, _bucket_counts((corpus,), size), present)
    candidates, complete = _neighbours(hashes, owners, sizes, threshold)
    found: list[Similar] = []
    repeated: set[int] = set()
    for pair in candidates.tolist():
        left, right = pair & 0xFFFFFFFF, pair >> 32
        if left in repeated or right in repeated:
            continue
        similarity = jaccard(_grams(corpus, left, size), _grams(corpus, right, size))
        if similarity >= threshold:
            found.append(Similar(left, right, similarity))
            repeated.add(right)
    return Within(found, complete)


def similar_across(held_out: Corpus, train: Corpus, size: int, threshold: float) -> Iterator[Similar]:
    """Yield every pair (held-out text, training text) of at least that Jaccard similarity."""
    for left, right in _pairs_across(held_out, train, size, threshold):
        similarity = jaccard(_grams(held_out, left, size), _grams(train, right, size))
        if similarity >= threshold:
            yield Similar(left, right, similarity)


def contained_across(held_out: Corpus, train: Corpus, size: int, share: float) -> Iterator[Similar]:
    """Yield every pair whose training text holds at least that share of the held-out text's n-grams.

    Held-out texts shorter than one n-gram are too short to be called copied and take no part.
    """
    lengths = held_out.starts[1:] - held_out.starts[:-1]
    for left, right in _pairs_across(held_out, train, size, share):
        if lengths[left] < size:
            continue
        grams = _grams(held_out, left, size)
        held = len(grams & _grams(train, right, size)) / len(grams)
        if held >= share:
            yield Similar(left, right, held)


def _grams(corpus: Corpus, index: int, size: int) -> set[tuple[int, ...]]:
    ids = corpus.ids[corpus.starts[index] : corpus.starts[index + 1]].tolist()
    return shingles(ids, size)


def _pairs_across(held_out: Corpus, train: Corpus, size: int, share: float) -> Iterator[tuple[int, int]]:
    """Yield candidates: a training text that holds one of the held-out text's rarest n-grams."""
    import numpy as np

    counts = _bucket_counts((held_out, train), size)
    wanted, owners, _ = _rarest(held_out, size, share, counts, np.ones(len(held_out), dtype=bool))
    order = np.argsort(wanted, kind="stable")
    wanted, owners = wanted[order], owners[order]
    # Most n-grams of the training rows are in no held-out row: a bit table tells most of them apart.
    mask = np.uint64(_MAX_BUCKETS - 1)
    known = np.zeros(_MAX_BUCKETS, dtype=bool)
    known[wanted & mask] = True
    for low, high in _chunks(train):
        hashes, rows = _hashed(train, size, low, high)
        maybe = known[hashes & mask]
        hashes, rows = hashes[maybe], rows[maybe]
        first = np.searchsorted(wanted, hashes, side="left")
        number = np.searchsorted(wanted, hashes, side="right") - first
        hit = number > 0
        first, number, rows = first[hit], number[hit], rows[hit]
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        left = owners[np.repeat(first, number) + within]
        pairs = np.unique(np.repeat(rows, number) << 32 | left)
        for pair in pairs.tolist():
            yield pair & 0xFFFFFFFF, pair >> 32


def _neighbours(hashes: Hashes, owners: Indices, sizes: Indices, threshold: float) -> tuple[Indices, bool]:
    """Return candidate pairs, packed as ``right << 32 | left`` and sorted, and whether these are all."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    packed: list[Any] = [np.zeros(0, dtype=np.int64)]
    total = 0
    for distance in range(1, NEIGHBOURS + 2):
        same = hashes[distance:] == hashes[:-distance]
        if not same.any():
            return np.unique(np.concatenate(packed)), True
        if distance > NEIGHBOURS or total > MAX_PAIRS:
            break
        left, right = owners[:-distance][same], owners[distance:][same]
        small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
        near = small >= threshold * large - 1e-9
        packed.append(np.unique(right[near] << 32 | left[near]))
        total += len(packed[-1])
    return np.unique(np.concatenate(packed)), False


def _rarest(
    corpus: Corpus, size: int, share: float, counts: Any, present: Any
) -> tuple[Hashes, Indices, Indices]:
    """Return each text's rarest n-grams (hash, text), as many as the prefix filter needs, and its number of n-grams."""
    import numpy as np

    hashes: list[Any] = [np.zeros(0, dtype=np.uint64)]
    owners: list[Any] = [np.zeros(0, dtype=np.int64)]
    sizes = np.zeros(len(corpus), dtype=np.int64)
    for low, high in _chunks(corpus):
        grams, rows = _hashed(corpus, size, low, high)
        kept = present[rows]
        grams, rows = grams[kept], rows[kept]
        rarity = counts[grams & np.uint64(len(counts) - 1)].astype(np.uint64)
        order = np.argsort(rarity << np.uint64(40) | grams >> np.uint64(24))
        order = order[np.argsort((rows[order] - low).astype(np.uint16), kind="stable")]
        grams, rows = grams[order], rows[order]
        new = np.ones(len(grams), dtype=bool)
        new[1:] = (grams[1:] != grams[:-1]) | (rows[1:] != rows[:-1])
        grams, rows = grams[new], rows[new]
        number = np.bincount(rows - low, minlength=high - low)
        sizes[low:high] = number
        rank = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number, number)
        needed = number - np.ceil(share * number - 1e-9).astype(np.int64) + 1
        prefix = rank < needed[rows - low]
        hashes.append(grams[prefix])
        owners.append(rows[prefix])
    return np.concatenate(hashes), np.concatenate(owners), sizes


def _bucket_counts(corpora: Sequence[Corpus], size: int) -> Any:
    """Return how often the n-grams of each hash bucket occur, at most 2**24 - 1; a power of two of buckets."""
    import numpy as np

    buckets = min(_MAX_BUCKETS, 1 << (1 + sum(len(corpus.ids) for corpus in corpora).bit_length()))
    counts = np.zeros(buckets, dtype=np.int64)
    for corpus in corpora:
        chunks = list(_chunks(corpus))
        for low, high in chunks[:: max(1, len(chunks) // _SAMPLED)]:
            grams, _ = _hashed(corpus, size, low, high)
            counts += np.bincount((grams & np.uint64(buckets - 1)).astype(np.int64), minlength=buckets)
    return np.minimum(counts, (1 << 24) - 1)


def _hashed(corpus: Corpus, size: int, low: int, high: int) -> tuple[Hashes, Indices]:
    """Return the hashes of all n-grams of texts `low` to `high` and the text of each, in text order."""
    import numpy as np

    begin, end = corpus.starts[low], corpus.starts[high]
    ids = corpus.ids[begin:end].astype(np.uint64) + np.uint64(1)
    lengths = np.diff(corpus.starts[low : high + 1])
    rows = np.repeat(np.arange(low, high), lengths)
    left = np.repeat(corpus.starts[low + 1 : high + 1] - begin, lengths) - np.arange(len(ids))
    hashes = np.zeros(len(ids), dtype=np.uint64)
    for step in range(min(size, len(ids))):
        reach = len(ids) - step
        longer = _mixed(hashes[:reach] * np.uint64(0x9E3779B97F4A7C15) + ids[step:])
        hashes[:reach] = np.where(left[:reach] > step, longer, hashes[:reach])
    first = np.zeros(len(ids), dtype=bool)
    first[(corpus.starts[low:high] - begin)[lengths > 0]] = True
    whole = (left >= size) | first
    return hashes[whole], rows[whole]


def _mixed(value: Hashes) -> Hashes:
    """Scatter bits (the finaliser of splitmix64: Steele, Lea, Flood 2014)."""
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _chunks(corpus: Corpus) -> Iterator[tuple[int, int]]:
    for low in range(0, len(corpus), _CHUNK):
        yield low, min(low + _CHUNK, len(corpus))
