"""The options that commands share, declared once."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


Model = Annotated[
    str, typer.Argument(help="Model name (`pregate models`), YAML file, Hugging Face config.json, or the model: .gguf.")
]
Hardware = Annotated[
    str,
    typer.Option(
        "--hardware", help="Machine (`pregate hardware`), or with its host: 'RTX 4090 + 9950X 96GB'; or YAML file."
    ),
]
Stack = Annotated[
    str | None, typer.Option(help="Software stack, or a YAML file of one; default: the one fitted on the machine.")
]
TraceFile = Annotated[Path | None, typer.Option("--trace", help="Routing trace; default: a synthetic one.")]
Policy = Annotated[str, typer.Option(help="Design: pregate, pregate(2), on_demand+lru:0.1, ./mine.py:MyPolicy.")]
PolicyOrUsual = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Design: pregate(2), on_demand+lru:0.1, ./mine.py:MyPolicy; default: pregate, or of an engine the first "
        "that fits.",
    ),
]
Popularity = Annotated[
    Path | None,
    typer.Option(
        "--popularity",
        help="How often each expert is chosen: a table of counts, or a trace to count; for static caches "
        "(on_demand+static:0.1), and the skew of a synthetic trace.",
    ),
]
Batch = Annotated[int | None, typer.Option(help="Sequences side by side; default: as recorded, or 1.")]


def _number_or_max(text: str | None) -> str | None:
    if text is not None and text != "max" and not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise typer.BadParameter(f"{text[:60]!r} is neither a whole number nor max.")
    return text


BatchOrMax = Annotated[
    str | None,
    typer.Option(
        "--batch",
        callback=_number_or_max,
        help="Sequences side by side, or max: as many as memory holds; default: as recorded, or 1.",
    ),
]
InputTokens = Annotated[int, typer.Option(help="Prompt tokens a sequence (synthetic traces).")]
OutputTokens = Annotated[int, typer.Option(help="Generated tokens a sequence (synthetic traces).")]
Active = Annotated[int | None, typer.Option(help="Force this many active experts a layer (synthetic traces).")]
PlacementText = Annotated[
    str | None,
    typer.Option(
        "--placement",
        help="Where parts of the model are: experts=cpu, experts=cpu:26 (layers), experts=cpu:keep=28 (on the "
        "accelerator), experts=cpu:fit (what HBM has no room for), layers=cpu:20, weights=stream, experts=zerocopy:20 "
        "(kernels read them in host memory), kv=cpu, kv=stream; prompts: ubatch=2048, stream=never; micro-batches that "
        "share a fetch: micro=8 (sequences); experts "
        "of the host while the device computes its own: host=beside; several cards: experts=whole, turns=2, copies=8; "
        "by comma.",
    ),
]
Speculative = Annotated[
    str | None,
    typer.Option(
        "--speculative",
        help="Draft tokens and verify them together: gamma=4,acceptance=0.8 (a share; shares by rank, 0.6/0.2; or a "
        "file: how many each pass took, or shares by depth), or a tree, branches=4x2x1, nodes=26 or "
        "grown=60,varies=0.3; then draft=MODEL on the device or draft_s=2ms a token, none: n-grams; "
        "rejected=elsewhere, seed=1.",
    ),
]
CacheText = Annotated[str | None, typer.Option("--cache", help="Expert cache: EVICTION:RATIO or EVICTION:SLOTS.")]
Hbm = Annotated[str | None, typer.Option(help="HBM of the accelerator, such as 24GiB.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override: link.h2d_bytes_per_s=64e9, stack.sync_s=5us, host=NAME, stack.host_memory=mapped."
    ),
]
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", help="Write what is predicted behind what this ledger has (`pregate ledger`)."),
]
Seed = Annotated[int, typer.Option(help="Seed of synthetic traces.", min=0)]
Tier = Annotated[
    str,
    typer.Option(
        help="Where experts wait: dram; ssd; or ssd with how it is read and what host memory keeps, ssd+lru:16GiB, "
        "ssd:read=128KiB:depth=8+lru:0.25, ssd:mapped+lru."
    ),
]
Engine = Annotated[str, typer.Option(help="auto, des (SimPy, the definition), recurrence, event or stream.")]
Check = Annotated[bool, typer.Option("--check", help="Run SimPy, the definition, too: every op must get its times.")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with a workload that takes many minutes.")]
CHECKED = "Checked: SimPy gives every op the same start and end, bit for bit."
ModesText = Annotated[
    str | None,
    typer.Option("--modes", help="Not FIFO: shared or priority, chunk:1MiB, hbm, dram, cancel, both, beside."),
]
TopK = Annotated[int | None, typer.Option(help="Experts a token, where a trace overrode the model's.")]
BackendName = Annotated[str, typer.Option("--backend", help="auto (CUDA where there is a device), cpu or cuda.")]
Graphs = Annotated[
    bool, typer.Option("--graphs", help="CUDA: run sections of layers as CUDA graphs, not kernel by kernel.")
]
LinkSpeed = Annotated[
    str, typer.Option("--link", help="Link that the CPU back end imitates: 2GB/s, or memory for as fast as that.")
]
Dtype = Annotated[str | None, typer.Option(help="Weights in this format instead of the published one.")]
Formats = Annotated[
    str | None,
    typer.Option(help="Parts of the model in other formats: experts=q4_k,attention=q8_0,kv=q8_0; or all=q4_k."),
]
Basis = Annotated[str, typer.Option(help="own (bought, with electricity) or rent (by the hour).")]
Assume = Annotated[
    list[str] | None,
    typer.Option("--assume", help="A figure of your own: electricity_usd_per_kwh=0.31, or low:middle:high."),
]
AssumptionsFile = Annotated[Path | None, typer.Option("--assumptions", help="A YAML file of such figures.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="table, json or csv.")]
Designs = Annotated[str, typer.Option("--policies", help="Designs, by comma.")]
Metric = Annotated[str, typer.Option(help="makespan_s, tokens_per_s, ttft_s, tpot_s or moe_layer_latency_s.")]
Jobs = Annotated[int | None, typer.Option(help="Worker processes; default: threads of this one.", min=1)]
NoSchedules = Annotated[bool, typer.Option("--no-cache", help="Keep no schedules on disk.")]
Page = Annotated[Path, typer.Option("--output", "-o", help="The page, .html.")]
TimelineFile = Annotated[Path | None, typer.Option("--timeline", help="Write the timeline for ui.perfetto.dev (JSON).")]
Gantt = Annotated[Path | None, typer.Option(help="Draw one decode step as a Gantt chart (PNG or SVG).")]
