"""What people write around flags, in words that the project has: which node ran it, options of Ollama and LM Studio."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.engines.flag_table import engine_of

__all__ = ["in_flags"]

_OPTION = (
    r"(?:-[NmCip]|--(?:cpunodebind|cpubind|membind|physcpubind|interleave|preferred))(?:\s+|=|(?=[\d]))[\w,+-]+|-l|-a|-c"
    r"|--localalloc|--all|0x[0-9a-fA-F]+|\d[\d,-]*"
)
_NUMA = re.compile(rf"\s*(?:numactl|taskset)\s+(?P<options>(?:(?:{_OPTION})\s+)*)", re.ASCII)
_ONE_NODE = re.compile(r"(?:-N|-m|--cpunodebind|--membind|--cpubind)(?:[ =]?)\d+(?![\d,-])", re.ASCII)
_LAYERS = re.compile(
    r"(?:num_gpu|n_gpu_layers|gpu[ _-]?layers|gpu[ _-]?offload)\s*[=:]?\s*(?P<n>\d{1,4})(?:\s*/\s*\d+)?(?:\s*layers)?",
    re.I | re.A,
)
_OTHERS = re.compile(r"(?:num_ctx|num_batch|num_predict|num_thread)\s*[=:]?\s*\d+", re.IGNORECASE | re.ASCII)


def in_flags(cells: Mapping[str, str]) -> dict[str, str]:
    """A row whose policy is what Ollama or LM Studio are told, as flags of llama.cpp; one that ran on one node of two
    sockets (`numactl -N 0 -m 0`), as of a host with one.
    """
    made = dict(cells)
    if "--kt-" in made.get("policy", "") and made.get("stack") in ("vllm", ""):  # SGLang with KTransformers' kernels
        made["stack"] = "ktransformers"
    engine = engine_of(made.get("stack", ""))
    stated = made.get("placement") or made.get("reason") or made.get("policy") != "gpu_only"
    if engine is not None and engine.experts_on_host and not stated:
        made["policy"] = "gpu_only@experts=cpu"
    bound = _NUMA.match(made.get("policy", ""))
    if bound is not None:
        made["policy"] = made["policy"][bound.end() :].strip()
        if _ONE_NODE.search(bound["options"]):
            name, mark, memory = made.get("host", "").partition(":")
            if name.endswith("-2s"):
                half = re.sub(r"^\d+(?=x)", lambda both: str(max(1, int(both[0]) // 2)), memory)
                made["host"] = name.removesuffix("-2s") + mark + half
    layers = _LAYERS.search(made.get("policy", ""))
    if layers is not None and not made["policy"].lstrip().startswith("-"):
        rest = _OTHERS.sub("", made["policy"].replace(layers[0], "")).strip(" ,;")
        made["policy"] = f"-ngl {layers['n']} {rest}".strip()
    return made
