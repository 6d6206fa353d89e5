"""Tables of docs/machines.md: what links were measured to do beside what ours say, and figures nobody could read."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

from hwmodels.laws.families import family_of
from hwmodels.platform import load_platform
from hwmodels.specs.checked_specs import VERDICTS, checked_figures, unverified_figures
from hwmodels.specs.machine_files import hardware_names, load_machine
from hwmodels.specs.measured_links import measured_links
from hwmodels.specs.processors import processors


def links() -> str:
    """Every measured rate of a link and ours, with its error; rows that cannot be said carry their reason."""
    lines = [
        "| measured on | link | copy | host memory | GB/s | ours | error | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    errors = []
    for row in measured_links():
        copy = row.direction if row.beside == "nothing" else f"{row.direction} while the other way"
        if row.reason:
            ours, error = "-", row.reason
        else:
            ours, error = f"{row.predicted_bytes_per_s / 1e9:.1f}", f"{row.error:+.0%}"
            errors.append(abs(row.error))
        source = row.source.replace("https://", "")
        cells = (row.gpu, row.link, copy, row.memory, f"{row.bytes_per_s / 1e9:g}", ours, error, source)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{len(errors)} rows can be said: median {statistics.median(errors):.1%}, mean {statistics.mean(errors):.0%}.",
    ]
    return "\n".join(lines)


ARCHITECTURES = {
    "5.2": "NVIDIA Maxwell", "6.0": "NVIDIA Pascal", "6.1": "NVIDIA Pascal", "7.0": "NVIDIA Volta",
    "7.5": "NVIDIA Turing", "8.0": "NVIDIA Ampere (A100, A30)", "8.6": "NVIDIA Ampere", "8.9": "NVIDIA Ada",
    "9.0": "NVIDIA Hopper", "10.x": "NVIDIA Blackwell (data centre)", "12.x": "NVIDIA Blackwell",
}  # fmt: skip
"""By family of compute capabilities (`hwmodels.laws.families`)."""


def cards() -> str:
    """Every card by architecture, and what is known of its kernels under vLLM."""
    by_title: dict[str, list[str]] = defaultdict(list)
    for name in hardware_names():
        card = load_machine(name).accelerator
        by_title[ARCHITECTURES.get(family_of(card.compute_capability) or "", card.vendor)].append(name)
    newest = [*reversed(dict.fromkeys(ARCHITECTURES.values())), "AMD", "Apple", "Intel"]
    lines = ["| architecture | cards | kernels under `--stack vllm` |", "|---|---|---|"]
    for title in newest:
        known = ", ".join(f"`{name}`" for name in by_title.pop(title))
        lines.append(f"| {title} | {known} | {_kernels(known)} |")
    assert not by_title, by_title
    return "\n".join(lines)


def _kernels(known: str) -> str:
    """What laws the cards of a row go by."""
    names = [name.strip("`") for name in known.split(", ")]
    fits = {name: load_platform(name, "vllm").fit for name in names}
    measured = [name for name, fit in fits.items() if fit is not None and fit.hardware == name]
    lent = any(fit is not None and fit.hardware != name for name, fit in fits.items())
    if not measured:
        return "as claimed"
    return f"measured on {', '.join(f'`{name}`' for name in measured)}" + ("; lent to the others" if lent else "")


def known_processors() -> str:
    """The processors that a host may be named by, by family."""
    by_family: dict[str, list[str]] = {}
    for name, one in processors().items():
        by_family.setdefault(one.family.name, []).append(name)
    lines = ["| family | channels | MT/s | FLOP a core and cycle | processors |", "|---|---|---|---|---|"]
    for names in by_family.values():
        family = processors()[names[0]].family
        known = ", ".join(f"`{name}`" for name in names)
        speed = f"{family.channels} | {family.mega_transfers_per_s}"
        lines.append(f"| {family.title} | {speed} | {family.flop_per_cycle} | {known} |")
    return "\n".join(lines)


def checked() -> str:
    """How many figures were checked with which verdict, and those that nobody could read."""
    verdicts = Counter(row.verdict for row in checked_figures())
    counted = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS)
    by_name: dict[str, list[str]] = defaultdict(list)
    for name, key, _ in unverified_figures():
        by_name[name].append(key.partition(".")[2].replace("peak_flop_per_s.", ""))
    lines = [f"{sum(verdicts.values())} figures were checked: {counted}.", ""]
    lines += ["| unverified in | figures |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(keys)} |" for name, keys in by_name.items()]
    return "\n".join(lines)
