"""A small recording in every foreign format, written here: five tokens, two layers, two of four experts each."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from traces.errors import InvalidFile
from traces.importers import ModelShape, import_trace
from traces.importers.plain_formats import PLAIN_CSV
from traces.routing import RoutingTrace

EXPERTS = np.array([[[(t + layer) % 4, (t + layer + 1) % 4] for layer in range(2)] for t in range(5)])
"""[5 tokens, 2 layers, top 2] of 4 experts: 3 tokens of prompt, 2 decoded."""
PHASED = ([0, 0, 0, 1, 1], [0, 0, 0, 1, 2])
DECODED = ([1] * 5, [0, 1, 2, 3, 4])


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def text(*rows: str) -> bytes:
    return "".join(row + "\n" for row in rows).encode()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pt(value: Any) -> bytes:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def cells() -> list[tuple[int, int, list[int]]]:
    return [(t, layer, EXPERTS[t, layer].tolist()) for t in range(5) for layer in range(2)]


def plain_csv() -> bytes:
    return text("# n_experts=4 model=m", PLAIN_CSV + ",weight", *(
        f"0,{int(t > 2)},{t},{layer},{slot},{expert},0.5"
        for t, layer, chosen in reversed(cells()) for slot, expert in enumerate(chosen)
    ))  # fmt: skip


def plain_npz() -> bytes:
    return npz(experts=EXPERTS.astype(np.int16), sequence=np.zeros(5, int), position=np.arange(5),
               phase=np.array([0, 0, 0, 1, 1]), step=np.array([0, 0, 0, 1, 2]), n_experts=4)  # fmt: skip


def completion(**more: Any) -> dict[str, Any]:
    choice = {"token_ids": [8, 9, 10], "routed_experts": EXPERTS[3:].tolist()}
    return {"model": "m", "prompt_routed_experts": EXPERTS[:3].tolist(), "choices": [choice]} | more


def whole_answer() -> dict[str, Any]:
    flat = base64.b64encode(EXPERTS.astype("<i4").tobytes()).decode()
    return {"text": "x", "meta_info": {"prompt_tokens": 3, "routed_experts": flat}}


def packed(array: Any) -> str:
    return base64.b64encode(array).decode()


def engine_data(encode: Callable[[bytes], bytes] = base64.b64encode) -> dict[str, Any]:
    """As Dynamo puts it: the prompt's tokens are counted in `usage`."""
    data = encode(EXPERTS.astype(np.uint8).tobytes()).decode()
    routed = {"data": data, "shape": [5, 2, 2], "dtype": "uint8", "start": 0}
    return {
        "choices": [{"index": 0}],
        "usage": {"prompt_tokens": 3},
        "nvext": {"engine_data": {"routed_experts": routed}},
    }


def sglang() -> bytes:
    torch = pytest.importorskip("torch")
    chosen = np.full((2, 5, 8), -1, np.int32)
    chosen[:, :, :2] = 3 - EXPERTS.transpose(1, 0, 2)  # physical ids, the other way round

    def record(i: int, first: int, last: int, lengths: list[int] | None) -> dict[str, Any]:
        return {"forward_pass_id": i, "rank": 0, "gatherer_key": "primary", "input_ids": list(range(last - first)),
                "positions": list(range(first, last)), "extend_seq_lens": lengths, "forward_mode": 2 - bool(lengths),
                "topk_ids_of_layer": torch.tensor(chosen[:, first:last]), "misc_objects": []}  # fmt: skip

    records = [record(1, 0, 3, [3]), record(2, 3, 4, None), record(3, 4, 5, None)]
    return pt({"records": records, "last_physical_to_logical_map": torch.tensor([[3, 2, 1, 0]] * 2)})


def logits() -> bytes:
    torch = pytest.importorskip("torch")
    scores = np.full((2, 5, 4), -1.0, np.float32)
    for t, layer, chosen in cells():
        scores[layer, t, chosen] = (2.0, 1.0)
    return pt({"router_logits": tuple(torch.tensor(scores[layer]).bfloat16() for layer in range(2))})


def scores_npz() -> bytes:
    scores = np.full((2, 5, 4), -1.0, np.float32)
    for t, layer, chosen in cells():
        scores[layer, t, chosen] = (2.0, 1.0)
    return npz(router_logits=scores)


def layers_of(value: Callable[[int], Any], name: str = "layers.{}.topk_ids") -> dict[str, Any]:
    return {name.format(layer): value(layer) for layer in range(2)}


def chosen(layer: int) -> Any:
    return EXPERTS[:, layer].astype(np.int32)


def scores(layer: int) -> Any:
    found = np.full((5, 4), -1.0, np.float32)
    for t in range(5):
        found[t, EXPERTS[t, layer]] = (2.0, 1.0)
    return found


def tensors(value: Callable[[int], Any]) -> dict[int, Any]:
    torch = pytest.importorskip("torch")
    return {layer: torch.tensor(value(layer)) for layer in range(2)}


def generated() -> bytes:
    """What `generate` returns: a pass of the prompt as a batch of one, then a pass a token."""
    layers = tensors(scores)
    return pt(tuple(tuple(layers[i][first:last][None] for i in layers) for first, last in ((0, 3), (3, 4), (4, 5))))


def hooked() -> bytes:
    """A list a module, to which a hook has added what each pass gave."""
    return pt({f"model.layers.{i}.mlp.gate": [one[:3], one[3:4], one[4:]] for i, one in tensors(scores).items()})


def safetensors(arrays: dict[str, Any]) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def mbolt() -> bytes:
    words = [1, 4]
    for first, last in ((0, 3), (3, 4), (4, 5)):
        for layer in range(2):
            words += [layer, 2, last - first, *EXPERTS[first:last, layer].ravel().tolist()]
    return b"MBLT" + struct.pack(f"<{len(words)}i", *words)


def rtrace() -> bytes:
    body = b"RTRACE01" + struct.pack("<2i", 4, 0)
    for t, layer, (first, second) in cells():
        scores = [0.6 if e == first else 0.4 if e == second else 0.0 for e in range(4)]
        body += struct.pack("<2i4f", t, layer, *scores)
    return body


def gate_csv() -> bytes:
    rows = []
    for t, layer, (first, second) in cells():
        scores = ",".join("0.6" if e == first else "0.4" if e == second else "0" for e in range(4))
        rows.append(f"{layer},{t},{scores}")
    return text("layer_id,token_id,expert_0,expert_1,expert_2,expert_3", *rows)


def gptoss_json() -> bytes:
    tokens = [
        {f"token_{t}": {f"layer_{layer}": {"selected_experts": EXPERTS[t, layer].tolist(), "selected_probs": [0.6, 0.4]}
                        for layer in range(2)}} for t in range(5)
    ]  # fmt: skip
    return json.dumps({"row_index": 1, "router_data": tokens}, indent=1).encode()


FILES: dict[str, tuple[str, Callable[[], bytes], Any]] = {
    "plain csv": ("plain_csv", plain_csv, PHASED),
    "plain npz": ("plain_npz", plain_npz, PHASED),
    "vllm completion": ("vllm_completion", lambda: json.dumps(completion()).encode(), PHASED),
    "vllm completion over lines": ("vllm_completion", lambda: json.dumps(completion(), indent=2).encode(), PHASED),
    "sglang base64": ("vllm_completion", lambda: json.dumps(whole_answer()).encode(), PHASED),
    "vllm npz": (
        "vllm_npz", lambda: npz(prompt_routed_experts=EXPERTS[:3], routed_experts=EXPERTS[3:]), PHASED,
    ),
    "vllm base64 of npy": (
        "vllm_completion",
        lambda: lines(completion(prompt_routed_experts=packed(npy(EXPERTS[:3].astype(np.uint8))),
                                 choices=[{"routed_experts": packed(npy(EXPERTS[3:].astype(np.uint8)))}])),
        PHASED,
    ),
    "sglang base64 of bytes": (
        "vllm_completion",
        lambda: lines({"meta_info": {"prompt_tokens": 3, "routed_experts": packed(EXPERTS.astype(np.uint8).tobytes()),
                                     "routed_experts_dtype": "uint8"}}),
        PHASED,
    ),
    "dynamo": ("vllm_completion", lambda: lines(engine_data()), PHASED),
    "dynamo in base85": ("vllm_completion", lambda: lines(engine_data(base64.b85encode)), PHASED),
    "choices by layer, npz": ("routed_array", lambda: npz(**layers_of(chosen)), DECODED),
    "choices by layer, safetensors": ("routed_array", lambda: safetensors(layers_of(chosen)), DECODED),
    "choices by layer, torch": ("routed_array", lambda: pt(tensors(chosen)), DECODED),
    "choices by layer, json": (
        "routed_array",
        lambda: json.dumps(layers_of(lambda layer: chosen(layer).tolist(), "layer_{}")).encode(),
        DECODED,
    ),
    "scores by layer, safetensors": (
        "router_array", lambda: safetensors(layers_of(scores, "model.layers.{}.mlp.gate")), ([0] * 5, [0] * 5),
    ),
    "scores by layer, torch": ("router_array", lambda: pt(tensors(scores)), ([0] * 5, [0] * 5)),
    "scores of hooks": ("router_array", hooked, ([0] * 5, [0] * 5)),
    "router logits of generate": ("router_logits", generated, PHASED),
    "rows of json": (
        "table",
        lambda: lines(*({"request_id": "r", "token_pos": t, "layer_id": layer, "experts": e, "weights": [0.6, 0.4],
                         "phase": "decode" if t > 2 else "prefill"} for t, layer, e in cells())),
        PHASED,
    ),
    "table of slots": (
        "table",
        lambda: text("token,layer,expert_0,expert_1", *(f"{t},{i},{e[0]},{e[1]}" for t, i, e in cells())),
        DECODED,
    ),
    "table by token_id": (
        "table",
        lambda: text("token_id,layer,expert_ids,weights", *(
            f"{t},{layer},{e[0]} {e[1]},0.6 0.4" for t, layer, e in cells())),
        DECODED,
    ),
    "npy": ("routed_npy", lambda: npy(EXPERTS.astype(np.int32)), DECODED),
    "npz of choices": ("routed_array", lambda: npz(topk_ids=EXPERTS.astype(np.int32)), DECODED),
    "npz of scores": ("router_array", scores_npz, ([0] * 5, [0] * 5)),
    "lists of choices": ("routed_array", lambda: json.dumps(EXPERTS.tolist()).encode(), DECODED),
    "table": (
        "table",
        lambda: text("expert_id\tlayer_idx\tpos\tphase", *(
            f"{expert}\t{layer}\t{t}\t{int(t > 2)}" for t, layer, e in cells() for expert in e)),
        PHASED,
    ),
    "token lines": (
        "token_lines",
        lambda: lines(*({"token": t, "experts": EXPERTS[t].tolist()} for t in range(5))),
        DECODED,
    ),
    "vllm route log": (
        "vllm_route_log",
        lambda: lines({"type": "meta", "model_id": "m", "num_experts": 4}, *(
            {"type": "route", "req_id": "r", "token_idx": t, "layer": layer, "topk_ids": e, "topk_weights": [0.6, 0.4]}
            for t, layer, e in cells())),
        DECODED,
    ),
    "sglang recorder": ("sglang_recorder", sglang, PHASED),
    "router logits": ("router_logits", logits, ([0] * 5, [0] * 5)),
    "llama-moe-trace": (
        "llama_moe_trace",
        lambda: text(*(f"{t - 3},{layer},{EXPERTS[t, layer, 0]},{EXPERTS[t, layer, 1]}"
                       for first, last in ((0, 3), (3, 4), (4, 5)) for layer in range(2) for t in range(first, last))),
        PHASED,
    ),
    "llama ranks": (
        "llama_ranks",
        lambda: text("phase,token,layer,rank,expert", *(
            f"{'decode' if t > 2 else 'prefill'},{t},{layer},{rank},{expert}"
            for t, layer, e in cells() for rank, expert in enumerate(e))),
        PHASED,
    ),
    "llama-server log": (
        "llama_server_log",
        lambda: text("layer_id,expert_ids", *(f"{layer},{e[0]} {e[1]}" for _, layer, e in cells())),
        DECODED,
    ),
    "llama activations": (
        "llama_activations",
        lambda: text("layer,expert", *(f"{layer},{expert}" for _, layer, e in cells() for expert in e)),
        DECODED,
    ),
    "gpt-oss json": ("gptoss_json", gptoss_json, DECODED),
    "olmoe": (
        "olmoe_blocks",
        lambda: lines({"input_ids": [1] * 5, "exp_ids": EXPERTS.transpose(0, 2, 1).tolist()}),
        ([0] * 5, [0] * 5),
    ),
    "policylang": (
        "policylang",
        lambda: lines({"model_name": "m", "num_layers": 2, "num_experts": 4, "top_k": 2, "num_entries": 10}, *(
            {"t": t, "l": layer, "e": e, "s": None} for t, layer, e in cells())),
        DECODED,
    ),
    "moe-cache-lab": (
        "moe_cache_lab",
        lambda: lines(
            {"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", "format_version": 1, "num_experts": 4},
            *({"record_type": "routing_selection", "phase": "generated" if t > 2 else "prompt", "token_position": t,
               "layer": layer, "selected_experts": e, "selected_probabilities": [0.6, 0.4]}
               for t, layer, e in cells())),
        PHASED,
    ),
    "speculative-moe": (
        "speculative_moe",
        lambda: lines(*({"dataset": "d", "problem_id": 1, "layer": layer, "experts": e, "gating_probs": [0.6, 0.4],
                         "token_idx": t} for t, layer, e in cells())),
        DECODED,
    ),
    "moe-balance": (
        "moe_balance",
        lambda: lines(*({"layer": layer, "batch_id": 0, "origin_rows": list(range(5)),
                         "topk_experts": EXPERTS[:, layer].tolist()} for layer in range(2))),
        DECODED,
    ),
    "moe-vis": (
        "moe_vis",
        lambda: lines(*({"layer": layer, "experts": EXPERTS[first:last, layer].tolist()}
                        for first, last in ((0, 3), (3, 4), (4, 5)) for layer in range(2))),
        PHASED,
    ),
    "gate csv": ("gate_csv", gate_csv, DECODED),
    "mbolt": ("mbolt", mbolt, PHASED),
    "rtrace01": ("rtrace01", rtrace, DECODED),
}  # fmt: skip
SHAPE = ModelShape(n_layers=2, n_moe_layers=2, n_experts=4, top_k=2)


def outcome(path: Path) -> RoutingTrace | str:
    """The trace, or the line in place of it."""
    try:
        return import_trace(path, shape=SHAPE)
    except InvalidFile as error:
        return str(error)
