"""Collection: which experiment a test is about, in which order tests run, and which rules a decision brings along."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from pytest_finetune.suite.markers import (
    PER_ROW,
    WHOLE,
    ExperimentRef,
    MarkerMistake,
    Stage,
    experiment_ref,
    our_fixtures,
    stage_of,
)

if TYPE_CHECKING:
    pass

PARAM: Final = "_finetune_experiment"
_KEY: Final = pytest.StashKey["Place | None"]()


class Place(NamedTuple):
    """Where an item of ours stands: its stage, its experiment (None for none), a mistake in its markers."""

    stage: Stage
    experiment: ExperimentRef | None
    mistake: str | None = None


def place_of(item: pytest.Item) -> Place | None:
    """Return the item's place, or None when the item is not ours."""
    if _KEY not in item.stash:
        item.stash[_KEY] = _find_place(item)
    return item.stash[_KEY]


def _find_place(item: pytest.Item) -> Place | None:
    stage = stage_of(item)
    if stage is None:
        return None
    param = getattr(getattr(item, "callspec", None), "params", {}).get(PARAM)
    if isinstance(param, MarkerMistake):
        return Place(stage, None, str(param))
    return Place(stage, param)


def parametrize(metafunc: pytest.Metafunc, refs: Sequence[ExperimentRef]) -> None:
    """Give a test that asks for our fixtures one run for each experiment that it is about."""
    if PARAM not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("finetune")
    chosen: Sequence[ExperimentRef | MarkerMistake] = refs
    if mark is not None:
        try:
            chosen = [experiment_ref(mark)]
        except MarkerMistake as mistake:  # an error here would end the session; the item itself will say it
            chosen = [mistake]
    ids = [pytest.HIDDEN_PARAM] if len(chosen) == 1 else [str(getattr(ref, "name", ref)) for ref in chosen]
    metafunc.parametrize(PARAM, chosen, indirect=True, ids=ids, scope="session")


def ordered(items: Iterable[pytest.Item], refs: Sequence[ExperimentRef]) -> list[pytest.Item]:
    """Put foreign tests first, then data and fit of all experiments, then the model stages one by one."""
    rank = {ref: number for number, ref in enumerate(refs)}

    def key(item: pytest.Item) -> tuple[int, int, int, int]:
        place = place_of(item)
        if place is None:
            return (0, 0, 0, 0)
        number = rank.setdefault(place.experiment, len(rank)) if place.experiment else -1
        if place.stage.needs_model:
            return (2, number, place.stage, 0)
        return (1, place.stage, number, 0)

    return sorted(items, key=key)


def needs_rules(items: Iterable[pytest.Item]) -> set[ExperimentRef]:
    """Return the experiments of which a comparison or decision test is among the items."""
    places = filter(None, map(place_of, items))
    return {
        place.experiment
        for place in places
        if place.experiment and place.stage in {Stage.COMPARISON, Stage.DECISION}
    }


def missing_rules(kept: Sequence[pytest.Item], collected: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the rule items that were collected, are not kept, and are needed by a kept comparison or decision."""
    wanted, have = needs_rules(kept), set(kept)
    return [item for item in collected if item not in have and _is_rule_of(item, wanted)]


def _is_rule_of(item: pytest.Item, experiments: set[ExperimentRef]) -> bool:
    place = place_of(item)
    return place is not None and place.stage is Stage.RULES and place.experiment in experiments


def asked_for(args: Sequence[str], base: Path) -> Callable[[pytest.Item], bool]:
    """Return a test whether an item lies under one of the command line's paths or node ids."""
    wanted = [_split(arg, base) for arg in args]

    def asked(item: pytest.Item) -> bool:
        names = item.nodeid.split("::")[1:]
        return any(_under(item.path, names, path, parts) for path, parts in wanted)

    return asked


def _split(arg: str, base: Path) -> tuple[Path, list[str]]:
    head, bracket, parameters = arg.partition("[")
    path, *names = head.split("::")
    if names:
        names[-1] += bracket + parameters
    return (base / path).resolve(), names


def _under(path: Path, names: Sequence[str], wanted: Path, parts: Sequence[str]) -> bool:
    if not parts:
        return path == wanted or wanted in path.parents
    if path != wanted or len(names) < len(parts):
        return False
    return all(name == part or name.startswith(f"{part}[") for name, part in zip(names, parts, strict=False))


def narrowing(config: pytest.Config, given: Sequence[str]) -> list[str]:
    """Return the options by which this run leaves tests out, as they were written; empty when none.

    `given` are the paths and node ids of the command line.
    """
    option = config.option
    found = []
    if config.args_source is pytest.Config.ArgsSource.ARGS and _narrows(config, given):
        found.append(" ".join(given))
    for name, flag in (("keyword", "-k"), ("markexpr", "-m")):
        value = getattr(option, name, "")
        if value:
            found.append(f"{flag} {value!r}")
    for name, flag in (("lf", "--lf"), ("stepwise", "--sw"), ("maxfail", "--maxfail")):
        if getattr(option, name, False):
            found.append(flag)
    for name, flag in (("deselect", "--deselect"), ("ignore", "--ignore"), ("ignore_glob", "--ignore-glob")):
        found += [f"{flag}={value}" for value in getattr(option, name, None) or ()]
    return found


def _narrows(config: pytest.Config, given: Sequence[str]) -> bool:
    """Tell whether the paths given leave out something that a bare run would collect."""
    named = [_split(arg, config.invocation_params.dir) for arg in given]
    whole = [config.rootpath / path for path in config.getini("testpaths")] or [config.rootpath]
    return not all(
        any(not names and (path == part or path in part.parents) for path, names in named) for part in whole
    )


def per_row_misuse(item: pytest.Item) -> str | None:
    """Return what is wrong with the way in which an item takes `response`, `example` or `score`; None when nothing."""
    asked = (PER_ROW | WHOLE) & our_fixtures(item)
    mark = item.get_closest_marker("eval_rule")
    is_rule = mark is not None
    own = set(getattr(getattr(item, "_fixtureinfo", None), "argnames", ()))
    if not is_rule:
        if not asked:
            return None
        return (
            f"{', '.join(sorted(asked))}: lives inside a rule only: mark the test with @pytest.mark.eval_rule, or take "
            "an arm (baseline, prompted, tuned), whose .responses are all answers"
        )
    import inspect

    function = getattr(item, "function", None)
    if function is not None and (
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    ):
        return "an eval_rule is a plain function: it is called once for every row and arm; write def, not async def"
    if "subtests" in own:
        return "an eval_rule cannot use subtests: each row already is its own result"
    corpus = bool(mark and mark.kwargs.get("corpus"))
    kind, needed, more = (
        ("a corpus rule", "responses", "examples") if corpus else ("an eval_rule", "response", "example")
    )
    if needed not in own:
        return f"{kind} takes `{needed}` in its own signature: def test_...({needed}, {more})"
    if needed not in asked:
        return f"`{needed}` is another fixture of that name here: rename that one, the rule needs pytest-finetune's"
    strays = sorted(asked - (WHOLE if corpus else PER_ROW))
    if strays:
        return f"{kind} cannot take {', '.join(strays)}: {'leave out' if corpus else 'write'} corpus=True for that"
    indirect = sorted(asked - own)
    if indirect:
        return (
            f"a fixture of this rule asks for {', '.join(indirect)}, but a fixture is set up once, not for every row: "
            "call a helper function with the response instead"
        )
    return None
