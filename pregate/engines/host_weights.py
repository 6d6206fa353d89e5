"""Weights that vLLM keeps on the host, as a placement: up to a budget, or of some layers of every group.

`vllm/model_executor/offloader/uva.py` (read 2026-11-29 at 00593fa7), `--cpu-offload-gb`: it goes through the layers
from the first on and takes one tensor after the other until the budget is reached or passed: attention, then the
experts' two tensors (up with gate, down), then norms. Kernels read them there. Embeddings and the head stay in HBM.
`prefetch.py` beside it (at 04db3199), `--offload-group-size`: the last `--offload-num-in-group` layers of every group
are copied into `--offload-prefetch-step` buffers. A copy begins once the layer that its buffer held has run, so that
with one buffer two such layers in a row are copied and computed in turn. Both take tensors by name, experts among them.
"""

from __future__ import annotations

import math

from offload.placing.layers import EVERYWHERE, LayerGroups
from offload.placing.placement import Placement
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.layer_bytes import layer_weight_bytes
from traces.model.layer_models import models_by_layer

EXPERTS_ALONE = "experts"
"""What `--cpu-offload-params` is told of routed experts."""

_OF_EXPERTS = ({EXPERTS_ALONE}, {"w13_weight", "w2_weight"})


def read_where_they_lie(gib: float, names: str, model: ModelArchitecture) -> list[str]:
    """Clauses of a placement for a budget in GiB, of the tensors that `names` names, "" all. Raises `InvalidInput`."""
    return _within("zerocopy", gib, names, model)


def copied_as_they_begin(gib: float, model: ModelArchitecture) -> list[str]:
    """The same of SGLang (`OffloaderV1` in its `srt/utils/offloader.py` at 046a9e40), which takes tensors in the same
    order and copies those of a layer when it begins, on the stream that computes.
    """
    clauses = _within("stream", gib, "", model)
    return [*clauses, "ahead=0"] if clauses else []


def _within(home: str, gib: float, names: str, model: ModelArchitecture) -> list[str]:
    _check_names("--cpu-offload-params", names)
    left, dense, experts = gib * 2**30, 0, []
    matrices = model.n_expert_matrices
    for layer, (n_bytes, stored) in enumerate(zip(layer_weight_bytes(model), models_by_layer(model), strict=True)):
        if left <= 0:
            break
        if not names:
            left, dense = left - n_bytes, layer + 1
        if layer in model.decoder.moe_layers:
            n_taken = 0
            for n in (matrices - 1, 1):  # of the matrices of an expert, in two tensors
                if left > 0:
                    left, n_taken = left - n * model.n_experts * stored.expert_bytes / matrices, n_taken + n
            experts.append((layer, n_taken / matrices))
    clauses, n_layers = [], model.decoder.n_layers
    taken = [(layer, share) for layer, share in experts if share]
    if taken:
        share = sum(share for _, share in taken) / len(taken)
        clauses.append(f"experts={home}{_first(taken[-1][0] + 1, n_layers)}" + f":share={share:.6g}" * (share < 1))
    if dense:
        clauses.append(f"weights={home}{_first(dense, n_layers)}")
    return clauses


def brought_in_groups(size: int, n: int, step: int, names: str) -> list[str]:
    """Clauses for the last `n` layers of every `size`, `step` buffers, of the tensors that `names` names, "" all.

    Raises `InvalidInput` for more layers than a group has, and for tensors other than of experts.
    """
    _check_names("--offload-params", names)
    if not 1 <= n <= size or step < 1:
        raise InvalidInput(
            f"policy: {n} layers of groups of {size}, {step} ahead: of a group 1 to {size} are brought, 1 ahead or more"
        )
    layers = "" if n == size else f":{n}/{size}"
    dense = [] if names else [f"weights=stream{layers}"]
    return [f"experts=stream{layers}", *dense, f"ahead={step}"]


def _check_names(flag: str, names: str) -> None:
    if names and {name.removeprefix("mlp.").removeprefix("experts.") for name in names.split()} not in _OF_EXPERTS:
        raise InvalidInput(f"policy: {flag} {names[:40]}: of named tensors only experts can be said, or all without it")


def _first(n: int, n_layers: int) -> str:
    return "" if n == n_layers else f":{n}"


def budget_of(placement: Placement, model: ModelArchitecture) -> tuple[float, bool] | None:
    """The budget in GiB, to a hundredth, that has kernels read what `placement` says, and whether it is of experts
    alone; None where vLLM cannot be told so.
    """
    where, dense = placement.zero_copy_experts, placement.zero_copy_weights
    whole = placement.expert_share == placement.streamed_share == 1
    if where is None or where.first or not whole or (dense is not None and dense != where):
        return None
    layers = where.of(model.decoder.n_layers)
    each = models_by_layer(model)
    n_bytes = model.n_experts * sum(each[layer].expert_bytes for layer in model.decoder.moe_layers if layer in layers)
    if dense is not None:
        n_bytes += sum(layer_weight_bytes(model)[layer] for layer in layers)
    return math.floor(n_bytes / 2**30 * 100) / 100, dense is None


def groups_of(placement: Placement) -> tuple[int, int, int, bool] | None:
    """Size of a group, layers of it that are brought, how many ahead, and whether experts alone are; None where vLLM
    cannot be told so.
    """
    where, dense, step = placement.streamed_experts, placement.streamed, placement.ahead
    whole = placement.expert_share == placement.streamed_share == 1
    if where is None or not step or not whole or (dense is not None and dense != where):
        return None
    if isinstance(where, LayerGroups):
        return where.size, where.n, step, dense is None
    return (1, 1, step, dense is None) if where == EVERYWHERE else None
