"""Published rules of thumb put to the test on the simulator: `python docs/rules_of_thumb.py` draws a picture each into
docs/pictures.

Machines are claimed ones, routing is synthetic; what is drawn is where lines cross, not how fast a machine is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pregate
from pregate.draw.palette import MARKERS, PALETTE
from pregate.draw.style import SOFT, bare, styled

PICTURES = Path(__file__).parent / "pictures"
STACK = "streams"
PCIE4 = 31.5
"""GB/s, PCI Express 4.0, 16 lanes."""
N_TOKENS = 4
"""Tokens decoded: a token takes as long as the next."""


def main() -> None:
    """All three."""
    cpu_or_copy(PICTURES / "cpu-or-copy.png")
    prefetch(PICTURES / "prefetch.png")
    dram_or_link(PICTURES / "dram-or-link.png")


def cpu_or_copy(target: Path, batches: Sequence[int] = (1, 4, 16, 64), n_points: int = 13) -> None:
    """When does an expert computed on the host beat its copy: by DRAM over link bandwidth, and by tokens at once."""
    ratios = [2 ** (i / 2 - 2) for i in range(n_points)]
    lines = {}
    for batch in batches:
        lines[f"batch {batch}"] = [
            tpot_s("on_demand", batch, PCIE4, ratio * PCIE4)
            / tpot_s("gpu_only@experts=cpu", batch, PCIE4, ratio * PCIE4)
            for ratio in ratios
        ]
    draw(
        ratios, lines, target,
        title="An expert on the host or its copy: Qwen3-30B-A3B in q4_k, RTX 4090, PCIe 4.0",
        x="DRAM bandwidth over link bandwidth", y="time a token, copied over on the host (ratio)",
        even=1.0, log_x=True,
    )  # fmt: skip


def prefetch(target: Path, batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128)) -> None:
    """When does prefetching make it slower: all experts of the next layer, against those that are asked for."""
    lines = {}
    for name in ("mixtral-8x7b", "qwen3-30b-a3b"):
        for design in ("prefetch_all", "pregate"):
            lines[f"{design}, {name}"] = [
                tpot_s(design, batch, PCIE4, 400.0, name) / tpot_s("on_demand", batch, PCIE4, 400.0, name)
                for batch in batches
            ]
    draw(
        batches, lines, target,
        title="Prefetching against fetching on demand: RTX 4090, PCIe 4.0, experts in q4_k",
        x="sequences at once", y="time a token, prefetched over on demand (ratio)", even=1.0, log_x=True, log_y=True,
    )  # fmt: skip


def dram_or_link(target: Path, batches: Sequence[int] = (1, 32), n_points: int = 11) -> None:
    """What twice the DRAM bandwidth buys, as a second GPU's worth of it would, and what twice the link does.

    The better of both designs is taken each time: experts on the host, or their copies.
    """
    ratios = [2 ** (i / 2 - 1.5) for i in range(n_points)]
    lines: dict[str, list[float]] = {}
    for batch in batches:
        for ratio in ratios:
            dram = ratio * PCIE4
            before = _better_s(batch, PCIE4, dram)
            lines.setdefault(f"twice the link, batch {batch}", []).append(before / _better_s(batch, 2 * PCIE4, dram))
            lines.setdefault(f"twice the DRAM, batch {batch}", []).append(before / _better_s(batch, PCIE4, 2 * dram))
    draw(
        ratios, lines, target,
        title="Twice the link or twice the DRAM: Qwen3-30B-A3B in q4_k, RTX 4090, PCIe 4.0",
        x="DRAM bandwidth over link bandwidth, before", y="times as fast (ratio)", even=1.0, log_x=True,
    )  # fmt: skip


def _better_s(batch: int, link: float, dram: float) -> float:
    return min(tpot_s(design, batch, link, dram) for design in ("on_demand", "gpu_only@experts=cpu"))


def draw(
    at: Sequence[float], lines: dict[str, list[float]], target: Path,
    *, title: str, x: str, y: str, even: float, log_x: bool = False, log_y: bool = False,
) -> None:  # fmt: skip
    """Lines over `at`, and `even`, where neither side gains; what lies under another line shows between its dashes.

    Raises `ValueError` for a title or a label that is longer than the picture.
    """
    with styled():
        _drawn(at, lines, target, title, x, y, even, log_x, log_y)


def _drawn(
    at: Sequence[float], lines: dict[str, list[float]], target: Path,
    title: str, x: str, y: str, even: float, log_x: bool, log_y: bool,
) -> None:  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(lines.items()):
        dash = {"dashes": (4, 3)} if i % 2 else {}
        axes.plot(at, values, color=PALETTE[i], marker=MARKERS[i], markersize=5, linewidth=1.6, label=name, **dash)
    axes.axhline(even, color=SOFT, linewidth=0.8, linestyle=":")
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    texts = axes.set_xlabel(x), axes.set_ylabel(y), axes.set_title(title, fontsize=10, loc="left")
    bare(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.draw_without_rendering()
    for text in texts:
        box = text.get_window_extent()
        if not (figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max)):
            raise ValueError(f"{target}: {text.get_text()!r} is longer than the picture")
    figure.savefig(target, dpi=130, metadata={"Software": None})


@functools.cache
def tpot_s(policy: str, batch: int, link: float, dram: float, name: str = "qwen3-30b-a3b") -> float:
    """Time a token of `policy`; `link` and `dram` in GB/s."""
    model = pregate.load_model(name, formats={"all": "q4_k"})
    hw = pregate.load_hardware(
        "rtx-4090", STACK,
        {"link.h2d_bytes_per_s": link * 1e9, "host": "epyc-9355-6400", "host.dram_bytes_per_s": dram * 1e9},
    )  # fmt: skip
    trace = pregate.synthesize(model, input_tokens=2, output_tokens=N_TOKENS, batch=batch, seed=0)
    return pregate.simulate(model, hw, trace, policy).tpot_s


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
