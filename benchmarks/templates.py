"""Write the table of docs/templates.md: what the chat templates that TRL ships make of a question and its answer.

python benchmarks/templates.py            # prints the table
python benchmarks/templates.py --write    # puts it into docs/templates.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import trl

from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import TemplateError

PAGE = Path(__file__).parents[1] / "docs" / "templates.md"
MARK = "<!-- table: python benchmarks/templates.py -->"
QUESTION = [{"role": "user", "content": "Which priority?"}]
ANSWER = "high"
SPECIAL = re.compile(r"<[|｜][^<>|｜\s'\"{}]+[|｜]>|</?s>|<(?:start|end)_of_turn>|<\|[a-z_]+>|<[a-z_]+\|>")


def main() -> None:
    """Print the table, or put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    table = "\n".join(lines())
    if not parser.parse_args().write:
        print(table)
        return
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{table}\n", encoding="utf-8")


def lines() -> Iterator[str]:
    """Yield the table: a line for each way in which templates are treated alike, in every revision of them."""
    files = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    alike: dict[tuple[str, str, str], list[str]] = {}
    for file in files:
        alike.setdefault(told(file.read_text(encoding="utf-8")), []).append(file.stem)
    yield f"## The {len(files)} templates that TRL {trl.__version__} ships"
    yield ""
    yield "| templates | thinks in | after the question is trained | |"
    yield "|---|---|---|---|"
    for (thinks, taught, note), names in sorted(alike.items(), key=lambda item: item[1]):
        yield f"| {', '.join(f'`{name}`' for name in names)} | {thinks} | {taught} | {note} |"


def told(template: str) -> tuple[str, str, str]:
    """Return the blocks that a template knows, what is trained after the question, and what else is to be said."""
    special = sorted({*SPECIAL.findall(template), "</s>"})
    chat = Chat.of({"default": template}, {"bos_token": "<s>", "eos_token": "</s>"}, special, {})
    thinks = ", ".join(code(mark.open) for mark in chat.reading.marks)
    try:
        taught = chat.taught(QUESTION, [{"role": "assistant", "content": ANSWER}])
    except TemplateError as error:
        return thinks, "", f"refused: {error}"
    if chat.answer_in(taught) != ANSWER:
        return thinks, "", "refused: the answer is lost"
    said = taught.whole[len(taught.asked) :]
    notes = ["the date is fixed"] if chat.dated else []
    notes += ["thinking can be switched off"] if chat.switch else []
    notes += [] if said.partition(ANSWER)[2].strip() else ["refused: no stop token follows the answer"]
    return thinks, code(said.partition(ANSWER)[0] + ANSWER), "; ".join(notes)


def code(text: str) -> str:
    """Write text as code in a cell of a table."""
    return "`" + text.replace("\n", "\\n").replace("|", "\\|") + "`"


if __name__ == "__main__":
    main()
