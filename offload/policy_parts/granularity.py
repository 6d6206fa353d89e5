"""How much of a layer's experts one copy brings: an expert, one matrix of it, all experts of a layer, or chunks.

A policy says it (`Policy.granularity`). Matrices are copies and kernels of their own: the first product starts when its
matrix is there. A layer is one transfer. Chunks are cut by the machine's link, which serves what is needed now before
the rest of what was brought ahead. Nothing here may know time.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from offload.execution import Execution
from offload.ops import OpKind, Piece, Work
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

Granularity = Literal["layer", "expert", "matrix"]
"""What one copy brings."""


def check_execution(policy: str, granularity: Granularity, writes_back: bool, execution: Execution, disk: bool) -> None:
    """Raise `InvalidInput` where a stack does not bring what one copy is to bring, or keeps no slots to write back."""
    if granularity == "matrix" and execution.arriving != "each":
        raise InvalidInput(
            f"policy {policy}: {execution.name} runs the experts of a layer in fused ops, which wait for all of their "
            f"matrices: leave granularity=matrix out, or take a stack that runs fetched experts one by one (streams)"
        )
    if granularity == "matrix" and execution.micro_sequences:
        raise InvalidInput(
            f"policy {policy}: micro-batches share whole experts: leave micro= or granularity=matrix out"
        )
    if execution.stage and (granularity != "expert" or writes_back):
        what = "write_back" if writes_back else f"granularity={granularity}"
        raise InvalidInput(
            f"policy {policy}: {execution.name} copies every expert within HBM before it is read: leave {what} out, or "
            f"take a stack that reads experts where they land (streams)"
        )
    if granularity == "layer" and disk:
        raise InvalidInput(
            f"policy {policy}: storage is read expert by expert: leave granularity=layer or --tier ssd out"
        )
    if writes_back and disk:
        raise InvalidInput(
            f"policy {policy}: experts on storage stay there, nothing goes back: leave write_back or --tier ssd out"
        )


def matrix_bytes(model: ModelArchitecture) -> tuple[int, ...]:
    """Bytes of each matrix of an expert with its biases, in the order in which they lie; they sum to an expert's.

    A matrix that ends within a byte, as formats of few bits may, gets the whole byte.
    """
    n, d_ff, width = model.n_expert_matrices, model.d_ff_expert, model.expert_width
    biases = [*[d_ff] * (n - 1), width] if model.expert_bias else [0] * n
    ends, reached = [0], 0.0
    for n_biases in biases:
        reached += d_ff * width * model.expert_dtype.bytes_per_param
        reached += n_biases * model.stored_gate_dtype.bytes_per_param
        ends.append(math.ceil(reached))
    ends[-1] = model.expert_bytes
    return tuple(end - begin for begin, end in pairwise(ends))


def matrix_copies(model: ModelArchitecture, kind: OpKind) -> tuple[Work, ...]:
    """The matrices of one expert moved, each by a copy of its own."""
    sizes, bits = matrix_bytes(model), model.expert_dtype.bits
    pieces = (Piece(i, len(sizes)) for i in range(len(sizes)))
    return tuple(
        Work(kind, weight_bits=bits, copy_bytes=size, piece=piece) for size, piece in zip(sizes, pieces, strict=True)
    )


def layer_copy(model: ModelArchitecture, kind: OpKind) -> Work:
    """All experts of a MoE layer moved, by one copy."""
    return Work(kind, weight_bits=model.expert_dtype.bits, copy_bytes=model.n_experts * model.expert_bytes)


def matrix_works(what: Work) -> tuple[Work, ...]:
    """The FFN of one expert as the products of its matrices: those up (and the gate), then that down."""
    up, down = what.gemms
    gemms = [*[up._replace(n_gemms=1)] * up.n_gemms, down]
    return tuple(what._replace(gemms=(gemm,), piece=Piece(i, len(gemms))) for i, gemm in enumerate(gemms))
