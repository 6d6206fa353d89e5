"""Clocks of the public tables that laws are fitted on, and how well one card's table ranks its twin's.

`python docs/table_ticks.py` prints a row for each law of attention over cached tokens: how far its shorter times are
whole ticks of 2.048 us (0 not at all, 1 all of them), tau that true times within their ticks would have, tau of the
times of the same shapes on a card with the same chip, and what it is within a tick and elsewhere. It needs
`pregate[aiconfigurator]` and takes a minute of CPU. Taus of the laws are in `results/kernel_laws.json`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwmodels.calibrate.public_tables.clock_ticks import TICK_S, in_ticks, rank_agreement
from hwmodels.calibrate.public_tables.kernel_tables import MACHINES, KernelTable, kernel_tables, tables_folder, versions
from hwmodels.calibrate.public_tables.law_fits import drawn_rows

FORMS = ("decode_attention", "latent_decode")

TWINS = {
    "b200_sxm": "gb200",
    "gb200": "b200_sxm",
    "b300_sxm": "gb300",
    "gb300": "b300_sxm",
    "h100_sxm": "h200_sxm",
    "h200_sxm": "h100_sxm",
}
"""Cards of one chip. H100 and H200 differ in memory."""


def tables_of(gpu: str) -> dict[tuple[str, str], KernelTable]:
    """Tables of `FORMS` by law and format."""
    folder = tables_folder(None)
    found = kernel_tables(folder, gpu, "vllm", versions(folder, gpu, "vllm")[-1])
    return {(table.form, table.stored): table for table in found if table.form in FORMS}


def seconds_of(table: KernelTable) -> dict[tuple[float, ...], float]:
    """Seconds by shape."""
    names = sorted(table.shapes)
    shapes = np.stack([table.shapes[name] for name in names], axis=1).tolist()
    return dict(zip(map(tuple, shapes), table.seconds.tolist(), strict=True))


def twin_taus(mine: KernelTable, twin: KernelTable) -> tuple[float, float, float]:
    """Tau of the twin's times: over all pairs, over those within a tick and over the others."""
    ours, theirs = seconds_of(mine), seconds_of(twin)
    both = [shape for shape in ours if shape in theirs]
    one, other = (np.array([seconds[shape] for shape in both]) for seconds in (ours, theirs))
    tick = np.round(one / TICK_S - np.angle(in_ticks(mine.seconds)) / (2 * np.pi))
    i, j = np.triu_indices(len(both), 1)
    ordered: NDArray[np.float64] = np.sign(one[i] - one[j]) * np.sign(other[i] - other[j])
    same = tick[i] == tick[j]
    return float(ordered.mean()), float(ordered[same].mean()), float(ordered[~same].mean())


def main() -> None:
    """Print the table."""
    print("| machine | law | format | in ticks | true times | twin | its tau | within a tick | elsewhere |")
    print("|---|---|---|---|---|---|---|---|---|")
    for gpu, name in MACHINES.items():
        theirs = tables_of(TWINS[gpu]) if gpu in TWINS else {}
        for (form, stored), whole in tables_of(gpu).items():
            table = drawn_rows(whole)
            found, twin = rank_agreement(table.seconds, table.seconds), theirs.get((form, stored))
            ceiling = "-" if found is None else f"{found.ceiling:.3f}"
            taus = "- | - | -" if twin is None else " | ".join(f"{tau:.3f}" for tau in twin_taus(table, twin))
            ticks = abs(in_ticks(whole.seconds))
            other = MACHINES[TWINS[gpu]] if twin is not None else "-"
            print(f"| {name} | {form} | {stored} | {ticks:.2f} | {ceiling} | {other} | {taus} |", flush=True)


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
