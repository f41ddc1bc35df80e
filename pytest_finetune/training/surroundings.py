"""Change the process for a training and put it back: environment, random state, logging, determinism, Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pytest_finetune.memory.measure import random_state

CHATTY: Final = ("accelerate", "bitsandbytes", "datasets", "huggingface_hub", "peft", "transformers", "trl")

_ALWAYS: Final[Mapping[str, str]] = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@contextlib.contextmanager
def surroundings(*, offline: bool) -> Iterator[None]:
    """Run the block quietly: no network when `offline`, no telemetry, no bars, no libraries' warnings.

    Everything it changes is as before afterwards, whatever the block itself changes: environment variables,
    the random state of Python, NumPy and torch, torch's determinism flags, log levels, warning filters.
    """
    no_network = {"HF_HUB_OFFLINE": "1"} if offline else {}
    with warnings.catch_warnings(), _quiet_loggers():
        warnings.simplefilter("ignore")
        # One warning is never noise: an operator that has no derivative stands in the backward pass.
        warnings.filterwarnings("error", message=".*an autograd kernel was not registered")
        with (
            # The hub client reads the environment once, at its first import: so it is imported before the
            # environment changes, and its constants are set for this block alone.
            _attributes(
                "huggingface_hub.constants", dict.fromkeys((*no_network, "HF_HUB_DISABLE_TELEMETRY"), True)
            ),
            _environment({**_ALWAYS, **no_network}),
            _no_bars(),
            random_state(),
            _determinism(),
        ):
            if not offline:
                _import_bitsandbytes()
            yield


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextlib.contextmanager
def _attributes(module: str, values: Mapping[str, object]) -> Iterator[None]:
    owner = importlib.import_module(module)
    fresh = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in fresh.items():
            setattr(owner, name, value)


def _import_bitsandbytes() -> None:
    """Import bitsandbytes, as PEFT will, without the network: on some CPUs it fetches a kernel to run."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        with _attributes("huggingface_hub.constants", {"HF_HUB_OFFLINE": True}):
            importlib.import_module("bitsandbytes")


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def no_dataset_bars() -> Iterator[None]:
    """Switch the progress bars of `datasets` off; apart from the rest because only a training imports it."""
    import datasets

    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _determinism() -> Iterator[None]:
    import torch

    cudnn: Any = torch.backends.cudnn
    flags = (cudnn.deterministic, cudnn.benchmark)
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = flags


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that the step in progress ends whole; the second interrupts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
