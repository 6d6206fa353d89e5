"""Tables of another shape than a row a measurement: a column a metric, a column a flag, and what llama-bench writes.

Each becomes rows of cells by our columns, which are read as those of any table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from hwmodels.quantity import ReadOnly

METRIC_MARK = "metric:"
"""Before the header of a column whose cells are values of the metric that it names."""

_NOTHING = ("", "-", "--", "\u2013", "\u2014", "n/a", "na", "none", "x", "?")
"""Cells of a column of values that hold none, as where not every row was measured so."""

_BENCH = frozenset(("model_type", "gpu_info", "n_prompt", "n_gen", "avg_ts"))
"""Columns that llama-bench alone writes together (`-o csv`: tools/llama-bench of ggml-org/llama.cpp)."""

_FLAGS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("n_gpu_layers", "-ngl", lambda value: True),
    ("n_cpu_moe", "-ncmoe", lambda value: value != "0"),
    ("tensor_buft_overrides", "-ot", lambda value: value != "none"),
    ("split_mode", "-sm", lambda value: value != "layer"),
    ("n_batch", "-b", lambda value: True),
    ("n_ubatch", "-ub", lambda value: True),
    ("n_threads", "-t", lambda value: True),
    ("type_k", "-ctk", lambda value: value != "f16"),
    ("type_v", "-ctv", lambda value: value != "f16"),
    ("flash_attn", "-fa", lambda value: True),
    ("use_mmap", "-mmp", lambda value: True),
    ("no_kv_offload", "-nkvo", lambda value: value == "1"),
    ("no_op_offload", "-nopo", lambda value: value == "1"),
)
"""A column of llama-bench, its flag, and which values say anything."""


FLAG_COLUMNS: Mapping[str, str] = ReadOnly(
    {
        "ngl": "-ngl", "gpu_layers": "-ngl", "ncmoe": "-ncmoe", "ub": "-ub", "ubatch": "-ub", "threads": "-t",
        "fa": "-fa", "ot": "-ot", "b": "-b", "tp": "-tp", "tp_size": "-tp",
        "tensor_parallel": "-tp", "tensor_parallel_size": "-tp", **{column: flag for column, flag, _ in _FLAGS},
    }
)  # fmt: skip
"""Columns of a flag of llama.cpp, as its benchmark prints them."""

_BACKENDS = ("cuda", "rocm", "hip", "metal", "vulkan", "sycl", "mtl", "blas")
"""What llama-bench prints as the backend of its one engine."""
_UNMEASURED = re.compile(r"\b(vulkan|sycl|opencl|cann|musa)\b", re.IGNORECASE)
"""Backends of which no kernel was measured here."""


def _llama_on(backend: str) -> str:
    """The engine of a backend: llama.cpp, with the backend's name where nothing is known of it."""
    other = _UNMEASURED.search(backend)
    return f"llama.cpp ({other[1]})" if other else "llama-cpp"


def with_flags(cells: Mapping[str, str]) -> dict[str, str]:
    """A row whose flags of llama.cpp have columns of their own, as one of that engine with them in its policy."""
    told = {column: cell.strip() for column, cell in cells.items() if column in FLAG_COLUMNS and cell.strip()}
    made = {column: cell for column, cell in cells.items() if column not in FLAG_COLUMNS}
    if not told:
        return made
    says = {column: says for column, _, says in _FLAGS}
    flags = [
        f"{FLAG_COLUMNS[column]} {cell}" for column, cell in told.items() if column not in says or says[column](cell)
    ]
    if made.get("stack", "").strip().lower().split("+")[0].split(",")[0] in _BACKENDS:
        made["note"] = "; ".join(filter(None, (made.get("note", ""), f"backend {made['stack']}")))
        made["stack"] = _llama_on(made["stack"])
    made["policy"] = " ".join((made.get("policy", "").strip(), *flags)).strip()
    made["stack"] = made.get("stack", "") or "llama-cpp"
    return made


RESIDENT_COLUMNS = (
    "source", "engine", "model", "hardware", "quant", "expert_bits", "other_bits", "batch", "ctx", "step_ms",
    "tokens_per_s", "kind", "note",
)  # fmt: skip
"""Columns of a table of decode steps of engines that keep every expert on the card."""


def cells_of_step(theirs: Mapping[str, str]) -> dict[str, str]:
    """One row of such a table by our columns: `ctx` tokens are there before each step."""
    bits = {part: theirs[column].strip() for part, column in (("expert", "expert_bits"), ("other", "other_bits"))}
    of_others = ("attention", "dense", "shared", "head")
    parts = {"experts": bits["expert"], **dict.fromkeys(of_others, bits["other"])}
    stored = ",".join(f"{part}=w{n}" for part, n in parts.items() if n)
    return {
        **{column: theirs[column] for column in ("source", "model", "hardware", "batch", "note")},
        "stack": theirs["engine"],
        "formats": stored or theirs["quant"],
        "policy": "gpu_only",
        "input_tokens": "1",
        "context_tokens": _context_of_step(theirs),
        "metric": {"decode": "decode_tokens_per_s", "microbatch": "microbatch_tokens_per_s"}.get(
            theirs["kind"].strip(), theirs["kind"]
        ),
        "value": theirs["tokens_per_s"],
        "unit": "tokens/s",
    }


def _context_of_step(theirs: Mapping[str, str]) -> str:
    """Tokens before each step; of a prompt read in parts `ctx` is a token's share of those before it."""
    stated = re.sub(r"\.0+$", "", theirs["ctx"].strip())
    if theirs["kind"].strip() == "microbatch" and stated.isdigit() and theirs["batch"].strip().isdigit():
        return str(int(stated) * int(theirs["batch"]))
    return stated


def is_of_bench(header: Sequence[str]) -> bool:
    """Whether llama-bench wrote a table."""
    return set(header) >= _BENCH


def cells_of_bench(theirs: Mapping[str, str]) -> dict[str, str]:
    """One row of `llama-bench -o csv` by our columns; a test of prompt and answer together has a rate of both."""
    n_prompt, n_gen = (theirs[column].strip() for column in ("n_prompt", "n_gen"))
    cards = [card.strip() for card in theirs["gpu_info"].split(",") if card.strip()]
    alike = len(set(cards)) == 1
    both = "0" not in (n_prompt, n_gen)
    said = [
        f"{flag} {value}"
        for column, flag, says in _FLAGS
        if (value := theirs.get(column, "").strip()) and says(value) and not (column == "split_mode" and len(cards) < 2)
    ]
    build = (f"{what} {theirs[column]}" for what, column in (("build", "build_commit"), ("backend", "backends"))
             if theirs.get(column))  # fmt: skip
    return {
        "model": theirs["model_type"],
        "hardware": f"{len(cards)}x {cards[0]}" if alike and len(cards) > 1 else " + ".join(cards) or "none",
        "host": theirs.get("cpu_info", "").split(",")[0].strip(),
        "stack": _llama_on(theirs.get("backends", "")),
        "policy": " ".join(said),
        "input_tokens": n_prompt if n_prompt != "0" else "",
        "output_tokens": n_gen if n_gen != "0" else "",
        "context_tokens": theirs.get("n_depth", ""),
        "metric": "total_tokens_per_s" if both else "prefill_tokens_per_s" if n_gen == "0" else "decode_tokens_per_s",
        "value": theirs["avg_ts"],
        "unit": "tokens/s",
        "routing": "random",
        "note": "; ".join(build),
    }


def melted(cells: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The rows of one line of a table with a column a metric: one for each of its cells that holds a value."""
    shared = {column: cell for column, cell in cells.items() if not column.startswith(METRIC_MARK)}
    columns = [column for column in cells if column.startswith(METRIC_MARK)]
    if not columns:
        yield shared
    for column in columns:
        if cells[column].strip().lower() not in _NOTHING:
            metric = column.removeprefix(METRIC_MARK)
            name = {"name": f"{shared['name']}, {_plain(metric)}"} if shared.get("name") else {}
            yield shared | name | {"metric": metric, "value": cells[column]}


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip())
