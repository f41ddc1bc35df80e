"""The pytest plugin: every hook is one call into a room. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune import fixtures
from pytest_finetune.suite import collection, markers, narrowed, options, session, xdist

if TYPE_CHECKING:
    from pluggy import PluginManager


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: PluginManager) -> None:
    """Declare the extension points."""
    from pytest_finetune import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin the session; before pytest-html reads where its page goes."""
    markers.declare(config)
    config.pluginmanager.register(fixtures, "finetune-fixtures")
    state = session.begin(config)
    config.pluginmanager.register(state.whole, "finetune-whole")
    if not xdist.is_worker(config):
        from pytest_finetune.suite.closing.ending import Closing

        closing = Closing(state)
        config.pluginmanager.register(closing, "finetune-closing")
        config.pluginmanager.register(closing.page, "finetune-page")
        if xdist.is_distributed(config):
            config.pluginmanager.register(xdist.Grouping(), "finetune-grouping")


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_metadata(metadata: dict[str, Any], config: pytest.Config) -> None:
    """Escape the environment of the page, which pytest-html writes as markup (pytest-html #1024)."""
    if config.option.finetune:
        from pytest_finetune.suite.closing.page import escape_metadata

        escape_metadata(metadata)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Read the experiment files before anything is collected, so that a mistake is a usage error."""
    state = _state(session.config)
    if not xdist.is_worker(session.config):
        state.check_early()
    narrowed.bring_rule_files(state)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test of ours its experiments."""
    collection.parametrize(metafunc, _state(metafunc.config).refs)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, Any, Any]:
    """Order our tests by stage, after every other plugin has had its say."""
    collected = list(items)
    result = yield
    narrowed.settle(_state(config), items, collected)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell the xdist controller which tests belong together."""
    if xdist.is_worker(session.config):
        xdist.write_map(session.config, session.items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the xdist controller what the store had to say, and what was collected here."""
    if xdist.is_worker(session.config):
        state = _state(session.config)
        xdist.tell(session.config, state.warnings(), state.whole.told())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, block or refuse a test before its fixtures are set up."""
    _state(item.config).before_test(item)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run an `eval_rule` on every held-out row and arm."""
    if pyfuncitem.get_closest_marker("eval_rule") is None:
        return None
    from pytest_finetune.suite.rules.rule_items import run_rule_item

    run_rule_item(_state(pyfuncitem.config), pyfuncitem)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the evidence on the report."""
    report = yield
    _state(item.config).after_phase(item, report)
    return report


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Explain failed assertions about findings, memory plans and drift."""
    return _state(config).explain(op, left, right)


def _state(config: pytest.Config) -> session.FinetuneSession:
    return session.of(config)
