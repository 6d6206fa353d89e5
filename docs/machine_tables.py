"""Tables of docs/machines.md: what links were measured to do beside what ours say, and figures nobody could read."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

from hwmodels.specs.checked_specs import VERDICTS, checked_figures, unverified_figures
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
