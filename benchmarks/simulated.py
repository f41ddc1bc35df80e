"""Sessions that are drawn from a known truth, and the rates that a rule states, held against what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

Passes = npt.NDArray[np.float64]
LEVEL = 0.025
SIZES = (10, 20, 50, 100, 200, 400)
EXCEEDED: list[str] = []


def check(what: str, hits: int, runs: int, stated: float) -> None:
    """Note a rate whose 99.9% lower bound lies above what is stated."""
    lower = betaincinv(hits, runs - hits + 1, 0.001) if hits else 0.0
    if lower > stated:
        EXCEEDED.append(f"{what} in {hits / runs:.1%} of {runs} runs, stated {stated:.1%}")


@dataclass(frozen=True)
class World:
    """How one simulated session comes about; rates are true pass rates, `guards` the true losses of guards.

    `kinship` is how much the arms share a row's difficulty, `within` how much rows of a group share theirs.
    """

    base: float = 0.5
    tuned: float = 0.5
    prompted: float | None = None
    guards: tuple[float, ...] = ()
    group_size: int = 1
    within: float = 0.0
    kinship: float = 0.5
    unstable: float = 0.0
    looks: int = 1
    min_gain: float = 0.05
    sizes: Sequence[int] = field(default=SIZES)

    def session(self, rng: np.random.Generator, n: int) -> Case:
        """Draw one session."""
        groups = tuple(f"g{i // self.group_size}" for i in range(n))
        cluster = "group" if self.group_size > 1 else None
        rates = {"baseline": self.base, "tuned": self.tuned}
        if self.prompted is not None:
            rates["prompted"] = self.prompted
        scores = {"task": self._scores(rng, "task", n, rates, groups)}
        rules = [Rule("task", primary=True, min_gain=self.min_gain, cluster=cluster)]
        for i, loss in enumerate(self.guards):
            rules.append(Rule(f"guard{i}", cluster=cluster))
            given = {"baseline": 0.9, "tuned": 0.9 - loss}
            scores[f"guard{i}"] = self._scores(rng, f"guard{i}", n, given, groups)
        return Case(
            tuple(rules),
            scores,
            DecisionDefaults(),
            self.looks,
            tuple(rates),
            answers_differ=True,
            delta_nonzero=True,
        )

    def _scores(
        self, rng: np.random.Generator, name: str, n: int, rates: Mapping[str, float], groups: tuple[str, ...]
    ) -> Scores:
        shared = self._difficulty(rng, n)
        shaky = rng.random(n) < self.unstable

        def settled(rate: float) -> Passes:
            own = np.sqrt(self.kinship) * shared + np.sqrt(1 - self.kinship) * self._difficulty(rng, n)
            return np.where(own < ndtri(rate), 1.0, 0.0)

        def run(passes: Passes) -> tuple[float, ...]:
            return tuple(np.where(shaky, rng.integers(0, 2, n), passes).astype(float).tolist())

        true = {arm: settled(rate) for arm, rate in rates.items()}
        noise = (run(true["baseline"]),) if self.unstable else ()
        arms = {arm: run(passes) for arm, passes in true.items()}
        return Scores(
            name, tuple(map(str, range(n))), groups if self.group_size > 1 else (), arms, noise=noise
        )

    def _difficulty(self, rng: np.random.Generator, n: int) -> Passes:
        together = np.repeat(rng.standard_normal(-(-n // self.group_size)), self.group_size)[:n]
        drawn: Passes = np.sqrt(self.within) * together + np.sqrt(1 - self.within) * rng.standard_normal(n)
        return drawn


GROUPED = {"group_size": 4, "within": 0.4}
ALL = {**GROUPED, "unstable": 0.05, "guards": (0.0, 0.0, 0.0)}
