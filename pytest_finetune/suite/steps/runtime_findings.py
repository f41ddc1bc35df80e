"""What can be told of the runtimes and the template of an experiment before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.gguf.ollama import find_ollama
from pytest_finetune.answering.runtimes.gguf.tools import Tools, find_tools, try_tools
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.chat_template import CLOCK
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.experiment import GgufSettings, ServerSettings
from pytest_finetune.experiment.reading import line_of
from pytest_finetune.experiment.records import DEFAULT_TEMPLATE
from pytest_finetune.experiment.runtimes import OLLAMA
from pytest_finetune.fingerprint import base_folder
from pytest_finetune.suite.steps.grammars import constrainable
from pytest_finetune.wording import counted

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.experiment import Experiment

_LATER: Final = "pytest --finetune needs it; without that flag no model is made, and nothing fails for it."
_WITHOUT: Final = "or leave the runtime out on this machine: --finetune-set runtimes='[transformers]'"


def template_findings(
    experiment: Experiment, tokenization: Tokenization | None, train: Rows, held_out: Rows
) -> Iterator[Finding]:
    """Yield arguments that the chat template does not read, and servers that would write the date of the day."""
    if tokenization is None or tokenization.chat is None:
        return
    for name in experiment.prompt.chat_template_kwargs:
        if not tokenization.chat.reads(name):
            line = line_of(experiment, ("prompt", "chat_template_kwargs", name))
            yield finding("chat/argument", f"{name!r} stands nowhere in it", file=experiment.file, line=line)
    if not tokenization.chat.dated:
        return
    for number, name in enumerate(experiment.runtimes):
        settings = experiment.runtime_settings.get(name)
        if isinstance(settings, ServerSettings) and settings.api != "completions":
            read = f"runtime {name!r} renders with today's date, training with {CLOCK:%Y-%m-%d}"
            line = line_of(experiment, ("runtimes", number))
            yield finding("chat/date", read, file=experiment.file, line=line)


def unread_template_findings(experiment: Experiment, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield that a template of the experiment's own is put around no row, since each row brings its whole prompt."""
    if experiment.prompt.template in (CHAT, DEFAULT_TEMPLATE) or not train:
        return
    if all(row.shape == "prompt" for row in train):
        read = f"{counted(len(train), 'row')} of the shape prompt and completion bring their whole prompt"
        line = line_of(experiment, ("prompt", "template"))
        yield finding("prompt/template", read, file=experiment.file, line=line)


def left_out_findings(
    experiment: Experiment, contract: Contract, train: Rows, held_out: Rows
) -> Iterator[Finding]:
    """Yield that the base is not asked under the contract's grammar, where the runtime that decides knows none."""
    first = experiment.runtimes[0]
    if first in experiment.runtime_settings and constrainable(experiment, contract):
        read = f"the arm 'constrained': the decision is made in {first!r}, which decodes freely"
        yield finding("arms/left-out", read, file=experiment.file, line=line_of(experiment, ("runtimes", 0)))


def gguf_findings(
    experiment: Experiment, train: Rows, held_out: Rows, *, needed: bool = True
) -> Iterator[Finding]:
    """Yield what keeps the model from becoming a GGUF file: tools that are not here, a family that they do not know.

    Tools that are not `needed` yet, because nothing is trained or asked, are a note.
    """
    working = cache(working_tools)
    for number, name in enumerate(experiment.runtimes):
        settings = experiment.runtime_settings.get(name)
        if not isinstance(settings, GgufSettings):
            continue
        line = line_of(experiment, ("runtimes", number))
        try:
            tools = working(settings.server)
        except AnsweringError as error:
            read, _, remedy = str(error).partition("\n")
            fix = f"{remedy.strip()}; {_WITHOUT}" if remedy else None
            found = finding("gguf/tools", read, file=experiment.file, line=line, fix=fix)
            yield found if needed else replace(found, severity="note", why=_LATER)
            return
        if unknown := unknown_architecture(experiment, tools):
            yield finding("gguf/architecture", unknown, file=experiment.file, line=line)
            return


def working_tools(server: str) -> Tools:
    """Return what a GGUF runtime with this server needs, each program of it started once. Raises AnsweringError."""
    tools = find_tools()
    try_tools(tools)
    if server == OLLAMA:
        find_ollama()
    return tools


def unknown_architecture(experiment: Experiment, tools: Tools) -> str | None:
    """Say that the converter does not know the base's family; a configuration that cannot be read is told elsewhere."""
    try:
        config = json.loads((base_folder(experiment) / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    named = [str(one) for one in config.get("architectures") or ()][:1]
    if not named or tools.knows(named[0]):
        return None
    return f"the converter at {tools.converter} has no line for {named[0]}, which the base is"
