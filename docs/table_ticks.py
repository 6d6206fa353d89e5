"""Clocks of the public tables that laws are fitted on, and what their ticks leave to be ranked.

`python docs/table_ticks.py` prints a row for each law of attention over cached tokens: how far its shorter times are
whole ticks of 2.048 us (0 not at all, 1 all of them), tau of families left out, tau over pairs that are more than a
tick apart, and tau of a law that is right about everything but the tick. It needs `pregate[aiconfigurator]` and takes
three minutes of CPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwmodels.calibrate.kernel_tables import MACHINES, KernelTable, kernel_tables, tables_folder, versions
from hwmodels.calibrate.law_fits import drawn_rows, held_out_rows, rates_of, solve_law
from hwmodels.specs.machine_files import load_machine

TICK_S = 2.048e-6
SHORTER_S = 40e-6
JITTER_S = 5e-8
"""How far times of a tick lie from it."""

FORMS = ("decode_attention", "latent_decode")


def in_ticks(seconds: NDArray[np.float64]) -> float:
    """Length of the mean of the times as angles, a tick the whole turn."""
    shorter = seconds[seconds < SHORTER_S]
    return float(abs(np.exp(2j * np.pi * shorter / TICK_S).mean()))


def row(gpu: str, table: KernelTable) -> str:
    """What the docstring says, of one table."""
    from scipy.stats import kendalltau

    rates = rates_of(table, load_machine(MACHINES[gpu]).accelerator)
    drawn = drawn_rows(table)
    said, seen = held_out_rows(drawn, rates, solve_law(drawn, rates).values), drawn.seconds
    one, other = np.triu_indices(len(seen), 1)
    apart = np.abs(seen[one] - seen[other]) > TICK_S
    ordered = np.sign(said[one] - said[other]) * np.sign(seen[one] - seen[other])
    ticked = np.round(said / TICK_S) * TICK_S + np.random.default_rng(0).normal(0, JITTER_S, len(said))
    taus = [kendalltau(said, seen).statistic, ordered[apart].mean(), kendalltau(said, ticked).statistic]
    told = " | ".join(f"{tau:.3f}" for tau in taus)
    return f"| {MACHINES[gpu]} | {table.form} | {table.stored} | {in_ticks(table.seconds):.2f} | {told} |"


def main() -> None:
    """Print the table."""
    folder = tables_folder(None)
    print("| machine | law | format | in ticks | tau | of pairs a tick apart | all but the tick |")
    print("|---|---|---|---|---|---|---|")
    for gpu in MACHINES:
        for table in kernel_tables(folder, gpu, "vllm", versions(folder, gpu, "vllm")[-1]):
            if table.form in FORMS:
                print(row(gpu, table), flush=True)


if __name__ == "__main__":
    main()
