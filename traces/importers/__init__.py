"""Foreign trace formats: one reader each, one line here. A file says itself which it is (`recognise`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from traces.errors import unknown_name
from traces.importers.binary import import_mbolt, import_rtrace
from traces.importers.documents import import_gptoss_json, import_olmoe_blocks
from traces.importers.gptoss_npz import import_gptoss_npz
from traces.importers.json_rows import (
    import_moe_balance,
    import_moe_cache_lab,
    import_moe_vis,
    import_policylang,
    import_route_log,
    import_speculative_moe,
)
from traces.importers.llama_cpp import import_activations, import_moe_trace, import_ranks, import_server_log
from traces.importers.plain import import_plain_csv, import_plain_npz
from traces.importers.recording import ModelShape
from traces.importers.route_trace_v1 import import_route_trace_v1
from traces.importers.routed_experts import import_routed_npy, import_vllm_completion, import_vllm_npz
from traces.importers.router_scores import import_gate_csv, import_router_logits
from traces.importers.sglang_recorder import import_sglang_recorder
from traces.importers.sniffing import OWN_FORMAT, recognise
from traces.routing import RoutingTrace
from traces.storage import load_trace

__all__ = ["IMPORTERS", "ModelShape", "import_trace", "recognise"]


def _import_own(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (one signature)
    """pregate's own safetensors says all of its shape."""
    return load_trace(path)


IMPORTERS: dict[str, Callable[..., RoutingTrace]] = {
    OWN_FORMAT: _import_own,
    "plain_csv": import_plain_csv,
    "plain_npz": import_plain_npz,
    "route_trace_v1": import_route_trace_v1,
    "vllm_completion": import_vllm_completion,
    "vllm_npz": import_vllm_npz,
    "routed_npy": import_routed_npy,
    "vllm_route_log": import_route_log,
    "sglang_recorder": import_sglang_recorder,
    "router_logits": import_router_logits,
    "llama_moe_trace": import_moe_trace,
    "llama_ranks": import_ranks,
    "llama_server_log": import_server_log,
    "llama_activations": import_activations,
    "gptoss_npz": import_gptoss_npz,
    "gptoss_json": import_gptoss_json,
    "olmoe_blocks": import_olmoe_blocks,
    "policylang": import_policylang,
    "moe_cache_lab": import_moe_cache_lab,
    "speculative_moe": import_speculative_moe,
    "moe_balance": import_moe_balance,
    "moe_vis": import_moe_vis,
    "gate_csv": import_gate_csv,
    "mbolt": import_mbolt,
    "rtrace01": import_rtrace,
}
"""Format name -> function of a path and a `ModelShape`. Each raises `InvalidFile` for a file it cannot read."""


def import_trace(
    path: Path | str,
    trace_format: str | None = None,
    shape: ModelShape = ModelShape(),  # noqa: B008 (frozen)
) -> RoutingTrace:
    """Read `path` in `trace_format`, or in the one it shows itself to be.

    `shape`: of the model, for what the recording leaves out. Raises `UnknownName` (the format) or `InvalidFile`.
    """
    name = recognise(Path(path)) if trace_format is None else trace_format
    if name not in IMPORTERS:
        raise unknown_name("trace format", name, IMPORTERS)
    return IMPORTERS[name](Path(path), shape)
