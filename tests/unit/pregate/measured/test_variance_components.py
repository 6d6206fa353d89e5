"""How far numbers lie from source to source: scales behind rows that were made with known ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from hwmodels.specs.spread import HALF_95, SPREAD_KEYS, TAIL
from pregate.measured.constants.spreads import Residual, fit_spread
from pregate.measured.constants.variance_components import Source, likely_scales

BEARS = 0.05
TRUE = np.array([0.4, 0.15, 0.08])  # two numbers, and a row by itself


def made(n_sources: int, n_rows: int = 5, seed: int = 0) -> list[Source]:
    """Sources whose two numbers and rows are off by t laws of the scales `TRUE`."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n_sources):
        depends = rng.uniform(0.2, 1.0, (n_rows, 2))
        off = depends @ (TRUE[:2] * rng.standard_t(TAIL, 2)) + TRUE[2] * rng.standard_t(TAIL, n_rows)
        found.append(Source(off, depends, np.zeros(n_rows)))
    return found


def scales(sources: list[Source], width: float = 3.0) -> np.ndarray:
    return likely_scales(sources, np.full(3, 0.2), np.full(3, width), BEARS)


def test_scales_that_rows_were_made_with_are_found() -> None:
    assert scales(made(300)) == pytest.approx(TRUE, rel=0.15)


def test_one_source_has_the_scale_that_a_t_law_says_is_most_likely() -> None:
    """Many sources of one exact row each: rows by themselves alone, whose likelihood has no integral."""
    off = 0.3 * np.random.default_rng(1).standard_t(TAIL, 400)
    sources = [Source(np.array([one]), np.zeros((1, 1)), np.zeros(1)) for one in off]
    (_, found) = likely_scales(sources, np.array([0.2, 0.2]), np.array([3.0, 3.0]), BEARS)
    tried = np.linspace(0.2, 0.4, 401)
    likely = tried[np.argmax([scipy.stats.t(TAIL, scale=one).logpdf(off).sum() for one in tried])]
    assert found == pytest.approx(likely, rel=0.01)


def test_one_row_that_is_far_off_hardly_moves_a_scale() -> None:
    """An eightfold error in one of twelve sources: a normal law would take it for a scale of .6 at least."""
    sources = made(12, seed=2)
    off = sources[3].off.copy()
    off[0] += np.log(8)
    moved = [*sources[:3], sources[3]._replace(off=off), *sources[4:]]
    assert scales(moved) == pytest.approx(scales(sources), rel=0.25)


def test_what_no_row_bears_on_stays_as_it_is_taken_to_be() -> None:
    sources = [one._replace(depends=one.depends * [1.0, 0.01]) for one in made(12)]
    assert scales(sources)[1] == pytest.approx(0.2)


def test_narrow_knowledge_beforehand_holds_against_few_rows() -> None:
    wide, narrow = scales(made(6, seed=4), 3.0), scales(made(6, seed=4), 0.01)
    assert abs(np.log(narrow / 0.2)).max() < 0.01 < abs(np.log(wide / 0.2)).max()


def test_a_row_that_leaves_its_pass_open_says_less_of_its_link() -> None:
    """Prompts of two sources are 2.5 times as fast as in the engine's own pass, where the largest makes 3 times."""
    pageable = SPREAD_KEYS.index("link.pageable_h2d_bytes_per_s")
    depends = tuple(0.9 * (i == pageable) for i in range(len(SPREAD_KEYS)))
    rng = np.random.default_rng(5)
    stated = [Residual(f"{i}", f"source {i}", 0.1 * rng.standard_t(TAIL), depends) for i in range(8)]
    far = [Residual(f"far {i}", f"far {i}", np.log(2.5), depends) for i in range(2)]
    left_open = [dataclasses.replace(one, larger=(np.log(3.0), depends)) for one in far]
    scale = {
        name: fit_spread([*stated, *more]).constants["link.pageable_h2d_bytes_per_s"]
        for name, more in (("none", []), ("open", left_open), ("stated", far))
    }
    assert scale["none"] < scale["open"] < 1.3 * scale["none"] < scale["stated"]


def test_independent_t_laws_add_as_their_half_widths_do() -> None:
    """Intervals add half-widths by their squares; of t laws of four degrees of freedom that holds 95 % as well."""
    rng = np.random.default_rng(6)
    for parts in ([1.0, 1.0], [1.0, 0.5, 0.3], [1.0] * 8):
        total = sum(part * rng.standard_t(TAIL, 400_000) for part in parts)
        assert np.quantile(np.abs(total), 0.95) == pytest.approx(HALF_95 * np.hypot.reduce(parts), rel=0.03)
