"""Optuna's part: which points to try next where there are too many to try all. Evaluation is not here.

NSGA-II (Deb, Pratap, Agarwal and Meyarivan, IEEE Trans. Evol. Comput. 6(2), 2002) asks for a generation, which is
evaluated as one batch; constraints by constrained domination. Numbers are crossed by BLX-alpha (Eshelman and Schaffer,
FOGA 2, 1993), which also finds what lies between its parents: Optuna's default only swaps them. optuna is loaded on
first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.optima.space import Range, Space
from pregate.sweeps.axes import Axis
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from optuna import Study, Trial


GENERATION = 50
"""Trials of one generation, and of one batch."""

Point = tuple[Any, ...]
"""The index of a policy, then for each parameter of a space the index of a value or, of a range, the number itself."""


class Trials:
    """A study of Optuna that asks for points and is told how good they are.

    `told`: trials so far. Every policy is tried first at the first value of every axis and the low end of every range.
    Raises `InvalidInput` without optuna.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int) -> None:
        self._space = space
        self._study = _new_study(n_objectives, seed)
        self._open: list[Trial] = []
        self.told = 0
        for i in range(len(space.subject.designs)):
            lows = {p.name: p.low if isinstance(p, Range) else 0 for p in space.parameters}
            self._study.enqueue_trial({"policy": i, **lows})

    def ask(self, n: int) -> list[Point]:
        """The next `n` points; some may have been tried before."""
        self._open = [self._study.ask() for _ in range(n)]
        return [self._suggested(trial) for trial in self._open]

    def tell(self, costs: NDArray[np.float64], excess: NDArray[np.float64]) -> None:
        """What became of the points asked for: `costs` (n, n_objectives) to be small, `excess` (n, n_constraints) over
        what is allowed. Both finite.
        """
        for trial, mine, over in zip(self._open, costs.tolist(), excess.tolist(), strict=True):
            trial.set_user_attr("excess", over)
            self._study.tell(trial, mine)
        self.told += len(self._open)

    def _suggested(self, trial: Trial) -> Point:
        names = range(len(self._space.subject.designs))
        return (trial.suggest_categorical("policy", names), *(_suggest(trial, p) for p in self._space.parameters))


def points_as_axes(points: Sequence[Point], space: Space) -> tuple[NDArray[np.int64], tuple[Axis, ...]]:
    """The policy of each point, (n,), and each parameter as an axis of the points' values."""
    columns = list(zip(*points, strict=True))
    axes = []
    for parameter, column in zip(space.parameters, columns[1:], strict=True):
        values = np.array(column, np.float64) if isinstance(parameter, Range) else parameter.values[list(column)]
        axes.append(Axis(parameter.name, parameter.key, values, parameter.unit))
    return np.array(columns[0], dtype=np.int64), tuple(axes)


def _new_study(n_objectives: int, seed: int) -> Study:
    """A study in memory that says nothing on the terminal."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise InvalidInput(
            "optuna is not installed: pip install 'pregate[optimize]', or list few enough values to try all"
        ) from None
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():  # what of this is experimental, or on its way out, differs between releases
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.NSGAIISampler(
                population_size=GENERATION,
                crossover=optuna.samplers.nsgaii.BLXAlphaCrossover(),
                seed=seed,
                constraints_func=lambda trial: trial.user_attrs["excess"],
            )
        return optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _suggest(trial: Trial, parameter: Axis | Range) -> Any:
    if isinstance(parameter, Range):
        if parameter.whole:
            return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), log=parameter.log)
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    last = len(parameter.values) - 1
    if parameter.is_numeric:
        return trial.suggest_int(parameter.name, 0, last)
    return trial.suggest_categorical(parameter.name, range(last + 1))
