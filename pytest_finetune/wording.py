"""Numbers, sizes, spans, arms and foreign text as words: each said one way, in every message and view."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

# Control characters, line separators, bidirectional controls, invisible fillers, tags, lone surrogates.
_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_ARMS: Final = {
    "baseline": ("base", "the base model"),
    "prompted": ("prompt", "the prompt alone"),
    "best_prompt": ("best prompt", "the best hand-written prompt"),
    "constrained": ("constrained", "constrained decoding of the base model"),
    "majority": ("chance", "the commonest answer"),
    "copy": ("copy", "the question given back"),
    "champion": ("champion", "the champion"),
    "tuned": ("tuned", "the tuned model"),
}


def arm(name: str) -> str:
    """Name an arm in a sentence: baseline is the base model."""
    if name.startswith("seed "):
        return f"the adapter of {name}"
    return _ARMS[name][1] if name in _ARMS else f"arm {name!r}"


def arm_word(name: str) -> str:
    """Name an arm in a table: baseline is base, prompted is prompt."""
    return _ARMS[name][0] if name in _ARMS else name


def visible(text: object, keep: str = "") -> str:
    r"""Spell out characters that a terminal or browser would obey instead of showing, except those in `keep`.

    >>> visible("a\x1b[31mb\u202e", keep="\n")
    'a\\x1b[31mb\\u202e'
    """

    def spell(match: re.Match[str]) -> str:
        char = match.group()
        return char if char in keep else char.encode("unicode_escape", "surrogatepass").decode()

    return _HIDDEN.sub(spell, str(text))


def one_line(text: object, limit: int | None = None) -> str:
    """Put text on one line: white space joined, hidden characters spelled out, cut in the end at `limit`."""
    line = visible(" ".join(str(text).split()))
    if limit is None or len(line) <= limit:
        return line
    return line[: max(limit - 3, 0)].rstrip() + "..."


def listed(names: Sequence[str], most: int = 5) -> str:
    """List the first names and count the others.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(number: float | None, noun: str, nouns: str | None = None) -> str:
    """Word a count: 1 row, 1,200 rows, an unknown number of rows."""
    nouns = nouns or f"{noun}s"
    if number is None:
        return f"an unknown number of {nouns}"
    return f"{number:,.0f} {noun if number == 1 else nouns}"


def percent(rate: float | None, digits: int = 1) -> str:
    """Word a rate: 0.9125 is 91.3%."""
    if rate is None:
        return "no rate"
    return f"{100 * rate:.{digits}f}%" if math.isfinite(rate) else "not finite"


def threshold(rate: float) -> str:
    """Word a threshold without needless digits: 0.95 is 95%, 0.975 is 97.5%."""
    return f"{round(100 * rate, 4):g}%"


def rough(share: float, beside: float) -> str:
    """Word a share times 100 in whole numbers, or with a decimal where it would read like the threshold `beside` it.

    >>> rough(0.687, 0.1), rough(0.104, 0.1), rough(0.1, 0.1)
    ('69', '10.4', '10')
    """
    whole = round(100 * share)
    alike = whole == round(100 * beside, 4) and not math.isclose(share, beside)
    return f"{100 * share:.1f}" if alike else str(whole)


def rough_percent(rate: float) -> str:
    """Word a rate in whole percent, without calling nearly none none, or nearly all all.

    >>> rough_percent(0.687), rough_percent(0.998), rough_percent(0.002), rough_percent(0)
    ('69%', 'over 99%', 'under 1%', '0%')
    """
    if rate in (0, 1) or 0.005 <= rate < 0.995:
        return f"{100 * rate:.0f}%"
    return "under 1%" if rate < 0.5 else "over 99%"


def margin(share: float) -> str:
    """Word a threshold in points, as short as it was given.

    >>> margin(0.1), margin(0.025), margin(0.01)
    ('10 points', '2.5 points', '1 point')
    """
    value = f"{round(100 * share, 4):g}"
    return f"{value} point" if value == "1" else f"{value} points"


def signed(share: float) -> str:
    """Word a difference of rates times 100, with its sign."""
    return f"{100 * share:+.1f}".replace("-0.0", "+0.0")


def points(gain: float | None) -> str:
    """Word a difference of rates in percentage points.

    >>> points(0.125), points(-0.03)
    ('+12.5 points', '-3.0 points')
    """
    if gain is None:
        return "no gain"
    return f"{signed(gain)} points" if math.isfinite(gain) else "not finite"


def rate_span(span: tuple[float, float] | None) -> str:
    """Word the interval of a rate, in percent."""
    return "" if span is None else f"[{100 * span[0]:.1f}, {100 * span[1]:.1f}]"


def gain_span(span: tuple[float, float] | None) -> str:
    """Word the interval of a gain, in points."""
    return "" if span is None else f"[{signed(span[0])}, {signed(span[1])}]"


def gain_words(gain: float | None, span: tuple[float, float] | None) -> str:
    """Word a gain with its interval, in points."""
    return f"{points(gain)} {gain_span(span)}".rstrip()


def size(count: float | None) -> str:
    """Word a number of bytes in binary units.

    >>> size(25769803776), size(41943040), size(512 * 1024**2)
    ('24.0 GiB', '40.0 MiB', '512 MiB')
    """
    if count is None or not math.isfinite(count):
        return "unknown"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= scale:
            value = count / scale
            return f"{value:.0f} {unit}" if value >= 100 and unit != "GiB" else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """Word a time span."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown time"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def figure(value: float | None, digits: int = 4) -> str:
    """Word a plain number (a loss, a p-value) with `digits` significant digits."""
    if value is None:
        return "unknown"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.{digits}g}"


def p_words(p_value: float | None) -> str:
    """Word a p-value; below one in ten thousand its exact size says nothing more.

    >>> p_words(0.0312), p_words(3e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    if p_value is None or not math.isfinite(p_value):
        return "no p-value"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word most like `word`, if one is at least as near as `cutoff`."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return found[0] if found else None


def last_words(printed: str) -> str:
    """Return the last line that a program printed before it failed, which mostly says why."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def unknown_key(word: str, known: Sequence[str]) -> str:
    """Say that a key is not known, and which one was probably meant."""
    guess = nearest(word, known)
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown key; {hint}known here: {', '.join(sorted(known))}"
