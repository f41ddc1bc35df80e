"""The pytest plugin: what is declared to pytest, and the moment at which a session of ours begins.

A project without fine-tunes pays for this module and the fixtures, nothing else of the package is imported. The session
(`suite.session`, whose hooks stand in `suite.hooks`) begins with the run when a flag or an ini option of ours is given
or the default experiment file is there; else when the first test of ours is collected; on an xdist controller, which
collects nothing, when the first report of such a test arrives.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune import fixtures

if TYPE_CHECKING:
    from pytest_finetune.suite.session import FinetuneSession

_FLAGS: Final[dict[str, dict[str, Any]]] = {
    "--finetune": {
        "action": "store_true",
        "help": "train (or reuse) the adapter and judge it; without this, tests that need a model are skipped",
    },
    "--finetune-promote": {
        "metavar": "DIR",
        "nargs": "?",
        "const": "",
        "help": "after a green run that decides keep, write the promotion bundle to DIR (default: paths.output_dir); "
        "write --finetune-promote=DIR with =",
    },
    "--finetune-promote-data": {
        "action": "store_true",
        "help": "put a copy of the training and held-out rows into the promotion bundle",
    },
    "--finetune-sign": {
        "metavar": "KEY",
        "help": "sign the promotion bundle: a private key file (PEM), or the word sigstore",
    },
    "--finetune-budget": {
        "metavar": "SIZE",
        "help": "judge the memory plan against another card: 8GiB, 24GB or a known card such as rtx-4090",
    },
    "--finetune-headroom": {
        "metavar": "SHARE",
        "help": "how much of the card the memory plan leaves free: 8%% or 0.08 (default: 8%%)",
    },
    "--finetune-set": {
        "metavar": "KEY=VALUE",
        "action": "append",
        "help": "override one key of the experiment (repeatable): training.learning_rate=1e-4",
    },
    "--finetune-store": {
        "metavar": "DIR",
        "help": "where adapters and answers are kept: a folder, or a URL such as s3://bucket/prefix "
        "(default: .finetune)",
    },
    "--finetune-store-readonly": {
        "action": "store_true",
        "help": "read from the store and write nothing to it, as on pull-request runners",
    },
    "--finetune-record": {
        "metavar": "DIR",
        "help": "where the record is written (default: finetune-record)",
    },
    "--finetune-track": {
        "metavar": "WHERE",
        "action": "append",
        "help": "follow trainings and verdicts in tensorboard (files beside the record), mlflow[:URI] or "
        "wandb[:PROJECT] (repeatable); numbers and settings, no text of a row",
    },
    "--finetune-retrain": {"action": "store_true", "help": "do not reuse a stored adapter"},
    "--finetune-rejudge": {
        "action": "store_true",
        "help": "ask the judges of rules with judge=True anew; the old verdicts are kept, and this is another look",
    },
    "--finetune-reuse": {
        "metavar": "HOW",
        "choices": ("exact", "semantic"),
        "help": "exact (default): reuse an adapter of this very environment; semantic: also one of the same experiment "
        "from other package versions or another device, said in the record",
    },
    "--finetune-device": {
        "metavar": "DEVICE",
        "help": "auto, cpu, cuda, cuda:N or mps (default: auto)",
    },
    "--finetune-executor": {
        "metavar": "HOW",
        "help": "where trainings and answers run: local (default), 'command: TEMPLATE' with {step} (also {key}, "
        "{store}, {card}, {gpus}, {memory}, {minutes}), submitit:slurm, or a plugin's executor",
    },
    "--finetune-executor-dry-run": {
        "action": "store_true",
        "help": "print the command or script of each job that is due, and send none",
    },
    "--finetune-require-gpu": {
        "action": "store_true",
        "help": "no accelerator is a usage error, not a slow CPU run",
    },
}
_INI: Final[dict[str, dict[str, Any]]] = {
    "finetune_experiments": {
        "help": "experiment files, relative to rootdir (default: finetune.yaml)",
        "type": "args",
        "default": [],
    },
    "finetune_budget": {"help": "default of --finetune-budget", "default": ""},
    "finetune_headroom": {"help": "default of --finetune-headroom", "default": ""},
    "finetune_store": {"help": "default of --finetune-store", "default": ""},
    "finetune_store_readonly": {
        "help": "default of --finetune-store-readonly",
        "type": "bool",
        "default": False,
    },
    "finetune_record": {"help": "default of --finetune-record", "default": ""},
    "finetune_track": {"help": "default of --finetune-track", "type": "args", "default": []},
    "finetune_executor": {"help": "default of --finetune-executor", "default": ""},
    "finetune_device": {"help": "default of --finetune-device", "default": ""},
}
_MARKERS: Final = {
    "data_contract": ": checks rows, contract or charter; needs no model",
    "oom_fit": ": checks that the training fits the card; loads no weights",
    "eval_rule": ": one rule of the evaluation, run on every held-out row and every arm; "
    "takes `response`, or `responses`",
    "decision_rule": ": judges the adapter by `decision`, after all rules",
    "finetune": "(file, **overrides): the experiment that this test is about",
    "gpu": "(min_gib=0): skip where there is no such accelerator",
}
# The same as in the suite, which this module does not import.
_EXPERIMENT: Final = "_finetune_experiment"  # every fixture of ours rests on it
_EVIDENCE: Final = "pytest_finetune_evidence"
_FILE: Final = "finetune.yaml"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini options."""
    group = parser.getgroup("finetune", "fine-tunes as tests")
    for flag, about in _FLAGS.items():
        group.addoption(flag, **about)
    for name, about in _INI.items():
        parser.addini(name, **about)


def pytest_plugin_registered(manager: pytest.PytestPluginManager) -> None:
    """Declare the extension points as soon as a plugin or a conftest file implements one."""
    used = any(name.startswith("pytest_finetune_") for name in vars(manager.hook))
    if used and not _is_known(manager):
        from pytest_finetune import hookspecs

        manager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare markers and fixtures and begin, where this run is about fine-tunes, before pytest-html looks at flags."""
    for name, about in _MARKERS.items():
        call = _rule_signature() if name == "eval_rule" and config.option.markers else name
        config.addinivalue_line("markers", call + about)
    config.pluginmanager.register(fixtures, "finetune-fixtures")
    if _is_meant(config):
        _begin(config)
    elif not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Reports(config), "finetune-reports")


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_metadata(metadata: dict[str, Any], config: pytest.Config) -> None:
    """Escape the environment of the page, which pytest-html writes as markup (pytest-html #1024)."""
    if config.option.finetune:
        from pytest_finetune.suite.closing.page import escape_metadata

        escape_metadata(metadata)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test of ours its experiments."""
    if _EXPERIMENT in metafunc.fixturenames:
        _begin(metafunc.config).parametrize(metafunc)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, Any, Any]:
    """Order our tests by stage, after every other plugin has had its say."""
    ours = _is_begun(config) or any(map(_is_ours, items))
    collected = list(items) if ours else []
    result = yield
    if ours:
        _begin(config).settle(items, collected)
    return result


class _Reports:
    """Waits on an xdist controller, which collects nothing, for the first report of a test of ours."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Begin, with this report, unless the session has begun; it takes the later ones itself."""
        if hasattr(report, _EVIDENCE) and not _is_begun(self._config):
            _begin(self._config).receive(report)


def _is_meant(config: pytest.Config) -> bool:
    """Tell whether a flag or an ini option of ours is given, or the default experiment file is there."""
    flags = (value for name, value in vars(config.option).items() if name.startswith("finetune"))
    return (
        any(value not in (None, False) for value in flags)
        or any(_is_set(config, name) for name in _INI)
        or (config.rootpath / _FILE).is_file()
    )


def _is_set(config: pytest.Config, name: str) -> bool:
    try:
        return bool(config.getini(name))
    except (TypeError, ValueError, pytest.UsageError):
        return True  # of a wrong type, which the session tells better


def _is_ours(item: pytest.Item) -> bool:
    """Tell quickly whether an item may be ours; a foreign fixture that only has the name of one of ours is not."""
    return _EXPERIMENT in getattr(item, "fixturenames", ()) or any(
        mark.name in _MARKERS for mark in item.iter_markers()
    )


def _is_begun(config: pytest.Config) -> bool:
    return config.pluginmanager.has_plugin("finetune-session")


def _begin(config: pytest.Config) -> FinetuneSession:
    """Return the session, which begins now if it has not."""
    from pytest_finetune.suite.hooks import begin

    session = begin(config)
    if session.settings.executor != "local" and session.away is None:
        from pytest_finetune.suite.jobs.executors import away, refuse_missing

        session.away = away(session.settings.executor, config.hook)
        if not session.settings.executor_dry_run:  # which may be asked where the engine is not
            refuse_missing(session.settings.executor)
    return session


def _is_known(manager: pytest.PytestPluginManager) -> bool:
    hook = getattr(manager.hook, "pytest_finetune_train", None)
    return hook is not None and hook.has_spec()


def _rule_signature() -> str:
    """Return `eval_rule` with its many arguments, for ``pytest --markers``."""
    from pytest_finetune.judging.rule import signature

    return signature()
