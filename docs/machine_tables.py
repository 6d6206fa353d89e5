"""Tables of docs/machines.md: what links were measured to do beside what ours say, and figures nobody could read."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

from hwmodels.laws.families import family_of
from hwmodels.platform import load_platform, machines_of
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


def answers() -> str:
    """What the page is opened for, in figures."""
    names = list(hardware_names())
    fits = {name: load_platform(name, "vllm").fit for name in machines_of("vllm")}
    n_measured = sum(fit is not None and fit.hardware == name for name, fit in fits.items())
    n_lent = sum(fit is not None for fit in fits.values()) - n_measured
    off = statistics.median(abs(row.error) for row in measured_links() if not row.reason)
    unread = Counter(name for name, _, _ in unverified_figures())
    n_figures = sum(1 for _ in checked_figures())
    rows = {
        "Is my card here?": f"{len(names)} cards are, [by architecture](#cards)",
        "Is my processor here?": f"{len(processors())} are, [by name](#hosts-by-their-processors) (`-2s`: two sockets)",
        "How well are kernels known?": f"under `--stack vllm` by [laws](#kernels-by-laws): measured on {n_measured} "
        f"cards, lent by a relative to {n_lent}, claims alone for {len(fits) - n_measured - n_lent}",
        "How well are links known?": f"{off:.0%} from [what was measured](#what-links-were-seen-to-do), the median of "
        "these rows; ordinary memory differs by a factor of three between machines",
        "How far off is a prediction?": "[the table of the field](field.md) has it, by source and mechanism",
        "Which numbers did nobody read?": f"{sum(unread.values())} of {n_figures}, [in {len(unread)} files](#sources)",
        "My card is not here": "`pregate hardware show rtx-4090 --format yaml > mine.yaml`, edit it, `--hardware "
        'mine.yaml`; a line `compute_capability: "8.9"` gives it the laws of that architecture',
        "I have the machine": "[measure it and send it](#a-machine-by-pull-request)",
    }
    return "\n".join(["| your question | answer |", "|---|---|", *(f"| {q} | {a} |" for q, a in rows.items())])


ARCHITECTURES = {
    "5.2": "NVIDIA Maxwell", "6.0": "NVIDIA Pascal", "6.1": "NVIDIA Pascal", "7.0": "NVIDIA Volta",
    "7.5": "NVIDIA Turing", "8.0": "NVIDIA Ampere (A100, A30)", "8.6": "NVIDIA Ampere", "8.9": "NVIDIA Ada",
    "9.0": "NVIDIA Hopper", "10.x": "NVIDIA Blackwell (data centre)", "12.x": "NVIDIA Blackwell",
    "8.7": "NVIDIA Jetson", "11.x": "NVIDIA Jetson",
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
    runs = machines_of("vllm")
    if not any(name in runs for name in names):
        return "it does not run there"
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
