"""Foreign trace formats: one reader each, one line here. A file says itself which it is (`sniffing`)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from traces.errors import unknown_name
from traces.importers.model_shape import ModelShape

if TYPE_CHECKING:
    from traces.routing import RoutingTrace

__all__ = ["IMPORTERS", "ModelShape", "import_trace", "recognise"]

IMPORTERS: dict[str, str] = {
    "pregate": "own_safetensors.import_own",
    "plain_csv": "plain_formats.import_plain_csv",
    "plain_npz": "plain_formats.import_plain_npz",
    "route_trace_v1": "route_trace_v1.import_route_trace_v1",
    "vllm_completion": "routed_experts.import_vllm_completion",
    "vllm_npz": "routed_experts.import_vllm_npz",
    "routed_npy": "routed_arrays.import_routed_array",
    "routed_array": "routed_arrays.import_routed_array",
    "router_array": "routed_arrays.import_router_array",
    "table": "tables.import_table",
    "vllm_route_log": "json_rows.import_route_log",
    "sglang_recorder": "sglang_recorder.import_sglang_recorder",
    "router_logits": "router_scores.import_router_logits",
    "llama_moe_trace": "llama_cpp.import_moe_trace",
    "llama_ranks": "llama_cpp.import_ranks",
    "llama_server_log": "llama_cpp.import_server_log",
    "llama_activations": "llama_cpp.import_activations",
    "gptoss_npz": "gptoss_npz.import_gptoss_npz",
    "gptoss_json": "json_documents.import_gptoss_json",
    "olmoe_blocks": "json_documents.import_olmoe_blocks",
    "policylang": "json_rows.import_policylang",
    "moe_cache_lab": "json_rows.import_moe_cache_lab",
    "speculative_moe": "json_rows.import_speculative_moe",
    "moe_balance": "json_rows.import_moe_balance",
    "moe_vis": "json_rows.import_moe_vis",
    "token_lines": "json_rows.import_token_lines",
    "gate_csv": "router_scores.import_gate_csv",
    "mbolt": "binary_recordings.import_mbolt",
    "rtrace01": "binary_recordings.import_rtrace",
}
"""Format name -> module and function of a path and a `ModelShape`, imported when a file asks for it. Each raises
`InvalidFile` for a file it cannot read."""


def import_trace(
    path: Path | str,
    trace_format: str | None = None,
    shape: ModelShape = ModelShape(),  # noqa: B008 (frozen)
) -> RoutingTrace:
    """Read `path` in `trace_format`, or in the one it shows itself to be.

    `shape`: of the model, for what the recording leaves out. Raises `UnknownName` (the format) or `InvalidFile`.
    """
    from traces.importers.files.packed_files import unpacked_file

    if trace_format is not None and trace_format not in IMPORTERS:
        raise unknown_name("trace format", trace_format, IMPORTERS)
    with unpacked_file(Path(path)) as plain:
        module, function = IMPORTERS[trace_format or recognise(plain)].split(".")
        trace: RoutingTrace = getattr(import_module(f"traces.importers.{module}"), function)(plain, shape)
        return trace


def recognise(path: Path) -> str:
    """The name of the format of a file. Raises `InvalidFile` as `traces.importers.sniffing.recognise`."""
    from traces.importers import sniffing

    return sniffing.recognise(path)
