"""Experts as large as the recording engine stored them: what a trace knows of its model beside the routing."""

from __future__ import annotations

from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.dtypes import Dtype
from traces.routing import RoutingTrace

_SAME = 0.01
"""Sizes within this share are the same: blocks of scales differ by less between writers of one format."""


def with_recorded_experts(model: ModelArchitecture, trace: RoutingTrace) -> ModelArchitecture:
    """`model` with experts of the size that `trace` recorded (its mean over layers), where it did and they differ.

    They are then moved and read in that many bits a weight, and multiplied in the format of the activations. Raises
    `InvalidInput` for a size of less than 1 bit a weight or above 32: the trace is not of the model.
    """
    if trace.expert_bytes is None:
        return model
    recorded = float(trace.expert_bytes.mean())
    if abs(recorded / model.expert_bytes - 1) <= _SAME:
        return model
    bits = 8 * recorded / model.expert_params
    if not 1 <= bits <= 33:
        raise InvalidInput(
            f"the trace of {trace.provenance.model} recorded experts of {recorded:.6g} bytes, {bits:.3g} bits for each "
            f"of the {model.expert_params} weights of {model.name}'s: it is not of this model; --dtype ignores it"
        )
    return model.with_experts_in(Dtype(model.stored_activation_dtype.name, bits))


def describe_size(model: ModelArchitecture, trace: RoutingTrace) -> str:
    """Whose size the experts have, in words; "" where the trace recorded none or the same."""
    if trace.expert_bytes is None:
        return ""
    recorded = float(trace.expert_bytes.mean())
    here = f"{model.expert_bytes / 1e6:.3g} MB"
    if abs(recorded / model.expert_bytes - 1) <= _SAME:
        return f"experts of {here}, as the recording engine stored them"
    return f"experts of {here}, where the recording engine stored {recorded / 1e6:.3g} MB"
