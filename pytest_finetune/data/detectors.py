"""Find secrets and personal data in text, and mask them: expressions propose, check digits and address rules confirm.

What is reserved for documentation (example.com, 192.0.2.0/24, 555-01xx) is no personal data.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple


class Detector(NamedTuple):
    """One kind of value; a text without any of `needles` cannot hold it (no needles: any text can).

    `confirm` returns how many of a candidate's first characters are the value, 0 when it is none.
    """

    rule: str
    name: str
    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    confirm: Callable[[str], int] = len


class TokenFormat(NamedTuple):
    """A published format of tokens that announce themselves by a fixed prefix, and where it is published."""

    needles: tuple[str, ...]
    expression: str
    source: str


class Hit(NamedTuple):
    """Where a value stands in its text; never print ``text[start:end]``."""

    rule: str
    name: str
    start: int
    end: int


SECRETS: Final = ("privacy/secret",)
PERSONAL: Final = ("privacy/email", "privacy/card", "privacy/iban", "privacy/phone", "privacy/ip")


@cache
def token_formats() -> dict[str, TokenFormat]:
    """Return what ``secret_patterns.toml`` knows, by name."""
    tree = tomllib.loads((Path(__file__).parent / "secret_patterns.toml").read_text(encoding="utf-8"))
    return {
        name: TokenFormat(tuple(known["needles"]), known["expression"], known["source"])
        for name, known in tree.items()
    }


@cache
def detectors() -> tuple[Detector, ...]:
    """Return all detectors; where values overlap, the earlier one wins."""
    secrets = [
        Detector("privacy/secret", name, known.needles, re.compile(known.expression, re.ASCII))
        for name, known in token_formats().items()
    ]
    return (
        *secrets,
        Detector("privacy/email", "e-mail address", ("@",), _EMAIL, _address_length),
        Detector("privacy/iban", "IBAN", (), _IBAN, iban_length),
        Detector("privacy/card", "card number", (), _CARD, card_length),
        Detector("privacy/ip", "IP address", (".",), _IPV4, _public_ip_length),
        Detector("privacy/ip", "IP address", (":",), _IPV6, _public_ip_length),
        Detector("privacy/phone", "phone number", ("+", "(", "-", "."), _PHONE, _phone_length),
    )


def find(text: str) -> list[Hit]:
    """Return the values in one text, in order, none overlapping another."""
    taken: list[Hit] = []
    for hit in _candidates(text):
        if not any(hit.start < other.end and other.start < hit.end for other in taken):
            taken.append(hit)
    return sorted(taken, key=lambda hit: hit.start)


def redact(text: str) -> str:
    """Return the text with each secret and each piece of personal data replaced by its kind.

    >>> redact("call +44 20 7946 0958 now")
    'call [phone number] now'
    """
    parts: list[str] = []
    position = 0
    for hit in find(text):
        parts += [text[position : hit.start], f"[{hit.name}]"]
        position = hit.end
    return "".join([*parts, text[position:]])


def short_hash(value: str) -> str:
    """Return 16 bits of the value's sha256: enough to see that two findings are one value.

    Longer would let a reader of the record try all phone numbers or addresses until one fits.
    """
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:4]


def scan(texts: Sequence[str]) -> Iterator[tuple[int, Hit]]:
    """Yield (index of the text, hit) for many texts; positions are within that text.

    The texts are searched as one for marks that every value has; only texts with a mark are read closely.
    """
    starts: list[int] = []
    position = 0
    for text in texts:
        starts.append(position)
        position += len(text) + 1
    touched = {bisect_right(starts, place) - 1 for place in _gate_places("\n".join(texts))}
    for index in sorted(touched):
        for hit in find(texts[index]):
            yield index, hit


def _candidates(text: str) -> Iterator[Hit]:
    for detector in detectors():
        if detector.needles and not any(needle in text for needle in detector.needles):
            continue
        for match in detector.pattern.finditer(text):
            if length := detector.confirm(match[0]):
                yield Hit(detector.rule, detector.name, match.start(), match.start() + length)


def _gate_places(text: str) -> Iterator[int]:
    for mark in _MARKS:
        place = text.find(mark)
        while place >= 0:
            yield place
            place = text.find(mark, place + 1)
    for gate in _GATES:
        for match in gate.finditer(text):
            yield match.start()


# Each value holds one of these marks or matches one of these gates, which cost a tenth of the expressions.
_MARKS: Final = (
    "AKIA", "ASIA", "ABIA", "ACCA", "AIza", "SG.", "SK", "dapi", ":A", "hvs.", "hvb.", "dp.pt.", "eyJ", "xapp-",
    "PRIVATE KEY", "hooks.slack.com/", "glc_", "AccountKey=", "://", "@",
)  # fmt: skip
_GATES: Final = (
    re.compile(r"_[0-9A-Za-z_]{10}"),
    re.compile(r"-[0-9A-Za-z_-]{10}"),
    re.compile(r"[0-9][0-9 .()-]{5}"),
    re.compile(r":[0-9A-Fa-f]{1,4}:"),
    re.compile(r"[A-Z]{2}[0-9]{2} ?[0-9A-Z]{4} ?[0-9A-Z]{4}"),
)
_EMAIL: Final = re.compile(
    r"(?<![\w.+-])[\w.+%-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", re.ASCII
)
_CARD: Final = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-]|\.\d)", re.ASCII)
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.ASCII)
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", re.ASCII)
_IPV6: Final = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f]{1,4}:)[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){3,7}(?![\w:])",
    re.ASCII,
)
_PHONE: Final = re.compile(
    r"(?<![\w+.-])(?:\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)
_RESERVED_DOMAIN: Final = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$")

# Issuer ranges and lengths of ISO/IEC 7812 numbers in use; a random digit run passes Luhn one time in ten.
_ISSUERS: Final = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"30[0-5]|36|38"), (14,)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),
    (re.compile(r"62"), (16, 17, 18, 19)),
)

# Lengths from the SWIFT IBAN registry.
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip


def card_length(text: str) -> int:
    """Return the text's length when its digits are those of an issuer and Luhn's rule holds, else 0."""
    digits = re.sub(r"\D", "", text)
    known = any(issuer.match(digits) and len(digits) in lengths for issuer, lengths in _ISSUERS)
    return len(text) if known and luhn(digits) else 0


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the Luhn check digit (ISO/IEC 7812-1, annex B).

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    plain = sum(int(digit) for digit in digits[-1::-2])
    return (plain + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def iban_length(text: str) -> int:
    """Return the length of the IBAN (ISO 13616) that the text begins with, else 0.

    >>> iban_length("BE68 5390 0754 7034 THANK YOU")
    19
    """
    wanted = _IBAN_LENGTHS.get(text[:2], 0)
    compact = ""
    for end, character in enumerate(text, start=1):
        compact += character.strip()
        if len(compact) == wanted:
            digits = "".join(str(int(place, 36)) for place in compact[4:] + compact[:4])
            return end if int(digits) % 97 == 1 else 0
    return 0


def _address_length(text: str) -> int:
    reserved = _RESERVED_DOMAIN.search(text.rpartition("@")[2].lower())
    return 0 if reserved else len(text)


def _public_ip_length(text: str) -> int:
    try:
        return len(text) if ipaddress.ip_address(text).is_global else 0
    except ValueError:
        return 0


def _phone_length(text: str) -> int:
    digits = re.sub(r"\D", "", text)
    # 555-01xx is reserved for fiction in the North American plan.
    fiction = re.search(r"55501\d\d$", digits)
    return len(text) if 8 <= len(digits) <= 15 and not fiction else 0
