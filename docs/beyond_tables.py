"""How well GEMMs beyond a table of measured ones are said: `python docs/beyond_tables.py` prints it.

Of every grid that was measured here a part is kept as a table, and the rest is asked of it: at the edge's utilisation,
and by the law that is fitted on the part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hwmodels.figures import figures_of
from hwmodels.fits.fit_files import load_fit
from hwmodels.kernels.roofline import GemmTable
from hwmodels.laws.beyond_table import ExtendedTable
from hwmodels.platform import platform_of

RESULTS = Path(__file__).resolve().parents[1] / "results"
FITS = (
    "cpu-intel-xeon-2c-2026-11-24/cpu-intel-xeon-2c.threads.yaml",
    "h200-sxm-2026-11-28/h200-sxm.pytorch-eager.yaml",
)

PARTS = {
    "16 rows at most": (slice(0, 6), slice(None), slice(None)),
    "64 rows at most": (slice(0, 8), slice(None), slice(None)),
    "256 rows at most": (slice(0, 10), slice(None), slice(None)),
    "16 rows at least": (slice(5, None), slice(None), slice(None)),
    "2^20 weights at most": (slice(None), slice(0, 3), slice(None)),
    "2^22 weights at most": (slice(None), slice(0, 4), slice(None)),
    "2^20 weights at least": (slice(None), slice(2, None), slice(None)),
    "aspects of 1/4 to 4": (slice(None), slice(None), slice(1, 4)),
}
"""Of the axes rows, weights and aspect."""


def main() -> None:
    """Print mean errors of the time, part by part, and over all of them."""
    rows = []
    for name in FITS:
        for whole in figures_of(platform_of(load_fit(RESULTS / name))).gemm_tables.values():
            for part, kept in PARTS.items():
                rows.append(np.mean(list(_errors(whole, kept)), axis=0))
                edge, law = 100 * rows[-1]
                machine = Path(name).stem.partition(".")[0]
                print(
                    f"{machine:20} {whole.table.dtype:5} {part:22} at the edge {edge:4.0f} %, by the law {law:4.0f} %"
                )
    edge, law = 100 * np.mean(rows, axis=0)
    print(f"{len(rows)} parts: at the edge {edge:.0f} %, by the law {law:.0f} %")


def _errors(whole: ExtendedTable, kept: tuple[slice, ...]) -> Iterator[tuple[float, float]]:
    """|error| of the time of every cell left out: at the edge of the part, by the law of the part."""
    table = whole.table
    axes = table.m[kept[0]], table.params[kept[1]], table.aspect[kept[2]]
    cells = np.array(table.utilisation)
    inside = tuple(tuple(tuple(row) for row in plane) for plane in cells[kept].tolist())
    part = ExtendedTable(GemmTable(table.dtype, *axes, inside), whole.rates)
    for i, j, k in itertools.product(*map(range, cells.shape)):
        m, params, aspect = point = table.m[i], table.params[j], table.aspect[k]
        if all(axis[0] <= value <= axis[-1] for axis, value in zip(axes, point, strict=True)):
            continue
        found = part.at_point(m, params, aspect)
        yield abs(cells[i, j, k] / part.table.at_point(m, params, aspect) - 1), abs(cells[i, j, k] / found - 1)


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
