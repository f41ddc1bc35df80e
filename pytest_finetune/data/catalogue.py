"""Every data rule, once: its stable id, how severe it is, why it matters, what to do.

The documentation's table of rules is this table; a test keeps them equal.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pytest_finetune.data.findings import Finding, Severity
from pytest_finetune.data.redaction import redact

READ_LIMIT: Final = 200


class Rule(NamedTuple):
    """What is said about each finding of a rule."""

    severity: Severity
    why: str
    fix: str


RULES: Final[dict[str, Rule]] = {
    # The file.
    "data/empty-file": Rule(
        "error", "There is nothing to learn from or to judge by.", "Add rows, or name the right file."
    ),
    "data/bom": Rule(
        "error",
        "Other readers take the mark for part of the first key.",
        "Save as UTF-8 without a byte order mark.",
    ),
    "data/crlf": Rule(
        "error",
        "The same rows have other checksums on other machines.",
        "End lines with LF (for example `git config core.autocrlf input`, `dos2unix`).",
    ),
    "data/invalid-utf8": Rule(
        "error",
        "Readers guess or replace such bytes, so the model learns damaged text.",
        "Convert the file to UTF-8.",
    ),
    "data/nul": Rule(
        "error", "Tools that read C strings stop here.", "Remove the NUL bytes; the line is probably damaged."
    ),
    "data/blank-line": Rule(
        "error", "Readers disagree on blank lines, and so on line numbers.", "Remove the line."
    ),
    "data/long-line": Rule(
        "error",
        "Such a line is usually a lost line break or a pasted file, not one example.",
        "Split or shorten the row, or raise rows.max_line_bytes in the contract.",
    ),
    "data/truncated-line": Rule(
        "error",
        "The file was cut while it was written; rows after this one are lost.",
        "Write the file again.",
    ),
    "data/damaged-archive": Rule("error", "Rows after the damage are lost.", "Compress the file again."),
    "data/unreadable-archive": Rule(
        "error",
        "The rows cannot be read here.",
        "Install zstandard (`pip install 'pytest-finetune[data]'`) or use gzip.",
    ),
    "data/checksum": Rule(
        "error",
        "The file is not the one that was approved.",
        "Review the change, then write the new sha256 under checksums in the contract.",
    ),
    # The row.
    "data/invalid-json": Rule("error", "The line is not a row.", "Write one JSON object a line."),
    "data/duplicate-key": Rule(
        "error",
        "Parsers keep the last value silently; the row may not say what you think.",
        "Keep one of the values.",
    ),
    "data/non-finite": Rule(
        "error",
        "NaN, Infinity and overflowing numbers are not JSON; readers disagree on them.",
        "Write a finite number or a string.",
    ),
    "data/lone-surrogate": Rule(
        "error",
        "The text cannot be encoded as UTF-8, so tokenizers fail or replace it.",
        "Write the character, or both halves of the pair.",
    ),
    "data/deep-nesting": Rule("error", "Deep nesting crashes parsers.", "Flatten the row."),
    "data/row-shape": Rule(
        "error",
        "A row of another shape teaches nothing, or the wrong thing.",
        "Use instruction/input/output (or expected), messages (an answer last), or prompt/completion.",
    ),
    "data/mixed-shapes": Rule(
        "error",
        "Trainers decide the shape from the first row and misread the others.",
        "Use one shape in a file.",
    ),
    "data/blank-text": Rule(
        "error", "A blank question or answer teaches silence.", "Fill the text or remove the row."
    ),
    "data/duplicate-id": Rule(
        "error", "An id must name one row, also in the record.", "Give each row an id of its own."
    ),
    "data/not-nfc": Rule(
        "warning",
        "The same characters in two encodings are different tokens to the model.",
        "Normalise the text to NFC (`unicodedata.normalize('NFC', text)`).",
    ),
    "data/control-character": Rule(
        "error",
        "Invisible characters are learned and repeated.",
        "Remove control characters other than tab and line breaks.",
    ),
    # The split.
    "data/too-few-rows": Rule(
        "error", "Too few rows to learn from or to decide by.", "Add rows, or lower rows.min_* knowingly."
    ),
    "data/duplicate-row": Rule(
        "error", "A repeated row is trained on twice, or counted as evidence twice.", "Keep one of them."
    ),
    "data/near-duplicate": Rule(
        "warning",
        "Almost equal rows add weight, not information.",
        "Keep the better one, or make them differ in what matters.",
    ),
    "data/alike": Rule(
        "warning",
        "The rows are variations of a template, so near duplicates were not all looked for.",
        "Add variety, lower leakage.shingle_words, or switch leakage.within off.",
    ),
    "data/conflict": Rule(
        "error",
        "The same question has two answers, so the model is taught to guess.",
        "Decide on one answer by the rubric.",
    ),
    "data/instruction": Rule(
        "error",
        "The model is trained on another instruction than the one it will be given.",
        "Use an instruction of the contract, byte for byte.",
    ),
    # Across splits.
    "leak/exact": Rule(
        "error",
        "A held-out row that was trained on measures memory.",
        "Remove the row from one of the files.",
    ),
    "leak/near-duplicate": Rule(
        "error",
        "An almost equal row was trained on; the held-out score is too good.",
        "Remove one of the two rows.",
    ),
    "leak/containment": Rule(
        "error", "The held-out text stands inside a training row.", "Remove one of the two rows."
    ),
    "leak/group": Rule(
        "error",
        "Rows of one group resemble each other; a split must not divide a group.",
        "Keep each group in one file.",
    ),
    "leak/conflict": Rule(
        "error",
        "Training teaches another answer than the held-out file expects.",
        "Decide on one answer and keep the row in one file.",
    ),
    "leak/judged": Rule(
        "error",
        "A decision rested on this row, and rows that are still held out with it: what is left was chosen by results.",
        "Take the row out of training, or judge on fresh held-out rows.",
    ),
    "leak/was-held-out": Rule(
        "warning",
        "Earlier decisions rested on this row, so their numbers and those of this adapter do not compare.",
        "Take the row out of training; where the old held-out file is retired on purpose, waive this with that reason.",
    ),
    # The answer.
    "output/not-json": Rule(
        "error", "The row teaches text where JSON was promised.", "Write exactly one JSON value."
    ),
    "output/extra-text": Rule(
        "error",
        "Text around the JSON breaks the program that parses it, and is learned.",
        "Remove everything but the JSON value.",
    ),
    "output/duplicate-key": Rule("error", "Parsers keep the last value silently.", "Keep one of the values."),
    "output/non-finite": Rule(
        "error", "Not JSON; strict parsers refuse it.", "Write a finite number or null."
    ),
    "output/lone-surrogate": Rule(
        "error", "The text cannot be encoded as UTF-8.", "Write both halves of the pair."
    ),
    "output/deep-nesting": Rule("error", "Deep nesting crashes parsers.", "Flatten the answer."),
    "output/schema": Rule(
        "error", "The row teaches an answer that breaks the schema.", "Correct the answer."
    ),
    "output/key-order": Rule(
        "error",
        "The order of keys is learned as well; two orders are two formats.",
        "Write the keys in one order (output.stable_keys: false allows any).",
    ),
    "output/pattern": Rule(
        "error", "The row teaches an answer that breaks the pattern.", "Correct the answer."
    ),
    # Labels and tags.
    "labels/missing": Rule(
        "error", "The answer carries no label where the contract says it stands.", "Add the label."
    ),
    "labels/unknown": Rule(
        "error", "A label outside the closed set is learned as a new class.", "Use a label of the set."
    ),
    "labels/too-few": Rule(
        "error", "A class with so few rows is neither learned nor measured.", "Add rows of the label."
    ),
    "labels/share": Rule(
        "error", "A dominant label is a good guess without reading the input.", "Add rows of other labels."
    ),
    "labels/drift": Rule(
        "warning",
        "Training and held-out rows come from different mixtures, so the score answers another question.",
        "Draw both files from one source, or accept the shift with a waiver.",
    ),
    "tags/too-few": Rule(
        "error",
        "The cases that decide are not in the file.",
        "Add rows with the tag, or lower the number knowingly.",
    ),
    "scope/pattern": Rule(
        "error",
        "The row belongs to a task that this adapter must not learn.",
        "Remove the row, or narrow the pattern.",
    ),
    # Privacy: `read` never holds the value.
    "privacy/secret": Rule(
        "error",
        "A secret in a training row can be recited by the model.",
        "Revoke it, then replace it by a placeholder.",
    ),
    "privacy/email": Rule(
        "error", "A person's address can be recited by the model.", "Replace it by a placeholder."
    ),
    "privacy/card": Rule(
        "error", "A card number can be recited by the model.", "Replace it by a placeholder."
    ),
    "privacy/iban": Rule(
        "error", "An account number can be recited by the model.", "Replace it by a placeholder."
    ),
    "privacy/phone": Rule(
        "error", "A phone number can be recited by the model.", "Replace it by a placeholder."
    ),
    "privacy/ip": Rule(
        "error", "An address can identify a person or a host.", "Use a documentation address (192.0.2.0/24)."
    ),
    "privacy/entity": Rule(
        "error", "The deep pass took this for personal data.", "Replace it by a placeholder, or waive it."
    ),
    # Tokens.
    "tokens/truncated": Rule(
        "error",
        "The end of the row is cut: the answer or its stop token is never learned.",
        "Shorten the row, or raise training.max_seq_length.",
    ),
    "tokens/unsupervised": Rule(
        "error",
        "No token of the answer is left to learn from; trainers drop such rows silently.",
        "Shorten the prompt or remove the row.",
    ),
    "tokens/no-eos": Rule(
        "error",
        "The stop token is not learned from this row, so answers run to the token limit.",
        "Shorten the row, or use a chat template that ends the answer with the stop token.",
    ),
    "tokens/prompt": Rule(
        "error",
        "The model would be trained on another prompt than it is asked with.",
        "End prompt.template (or the row's prompt) with neither a space nor half a word.",
    ),
    # The contract itself.
    "contract/waiver-expired": Rule(
        "error", "The finding was accepted until a date that has passed.", "Fix it, or renew the waiver."
    ),
    "contract/waiver-unused": Rule(
        "warning", "The waiver covers no finding any more.", "Remove it from the contract."
    ),
}


FROM_THE_STORE: Final = frozenset({"leak/judged", "leak/was-held-out"})
"""Rules that only a session can check, by the looks of its store: another machine may find nothing."""


def finding(
    rule: str,
    read: str,
    *,
    file: str | None = None,
    line: int | None = None,
    digest: str | None = None,
    fix: str | None = None,
) -> Finding:
    """Make a finding of a known rule; what is private in `read` is masked before it is shortened."""
    known = RULES[rule]
    shown = printable(redact(read))
    if len(shown) > READ_LIMIT:
        shown = f"{shown[: READ_LIMIT - 3]}..."
    return Finding(rule, known.severity, shown, known.why, fix or known.fix, file, line, digest)


def quoted(text: str, limit: int = 80) -> str:
    """Return the text in quotes, masked first and shortened then, so that no half of a secret is left."""
    shown = redact(text)
    return repr(shown if len(shown) <= limit else f"{shown[: limit - 3]}...")


def printable(text: str) -> str:
    """Escape what a terminal would act on or could not encode."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
