"""Layers that the host's processor computes whole: which part of a layer an op is, and what crosses the link whole.

Derived in the order of a schedule. Nothing here knows a device, or time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from offload.ops import OpKind
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

Part = Literal["attention", "gate", "shared", "dense", "head"]

KIND_OF_PART: Mapping[Part, OpKind] = MappingProxyType(
    {
        "attention": OpKind.SELF_ATTENTION, "gate": OpKind.GATE, "shared": OpKind.EXPERTS,
        "dense": OpKind.DENSE_FFN, "head": OpKind.HEAD,
    }
)  # fmt: skip
"""What the same part is on a device."""


class HostLayers:
    """The `layers` of a decoder that the host computes; `note` each op once its pass is known.

    `part`: of each op of the host's processor that is no expert, what it computes. `crossing`: hand-overs and returns
    of the residual stream, which change its side; others bring the input and the results of a block's experts.
    `gates_ahead`: whether gates sit in blocks before their own, so that either side may run those of the other. Raises
    `InvalidInput` for a decoder that reads an encoder, whose outputs no op hands over.
    """

    def __init__(self, model: ModelArchitecture, layers: Collection[int], *, gates_ahead: bool = False) -> None:
        if layers and model.is_encoder_decoder:
            raise InvalidInput(
                f"{model.name}: its decoder reads an encoder, whose outputs no op hands to layers on the host: the "
                f"runtime executes layers=cpu of decoders alone, simulate it instead"
            )
        self.layers, self.gates_ahead = frozenset(layers), gates_ahead
        self.part: dict[int, Part] = {}
        self.crossing: set[int] = set()
        self.model = model
        self._pass, self._is_here = -1, False
        self._n_done: dict[int, int] = {}

    def note(self, op: int, kind: OpKind, i_pass: int, layer: int) -> None:
        """What an op is. Raises `InvalidInput` for one that is of no layer on the host."""
        if i_pass != self._pass:
            self._pass, self._is_here = i_pass, False
            self._n_done.clear()
        if kind is OpKind.CPU_LAYER:
            self._is_here = True
            n_done, parts = self._n_done.get(layer, 0), self._parts(layer)
            if n_done >= len(parts):
                raise InvalidInput(
                    f"op {op} attends on the host to keys and values of layer {layer}, whose other parts are on the "
                    f"device (kv=cpu): the runtime executes experts=cpu and layers=cpu, simulate it instead"
                )
            self.part[op], self._n_done[layer] = parts[n_done], n_done + 1
        elif kind is OpKind.HANDOVER and layer in self.layers:
            self.crossing.add(op)
            self._is_here = True
        elif kind is OpKind.RETURN and self._is_here:
            self.crossing.add(op)
            self._is_here = False

    def may_close(self, op: int, kind: OpKind, layer: int) -> bool:
        """Whether an op on the host may be the last of a MoE block: an expert, or what comes where none does."""
        return layer in self.layers and (kind is OpKind.CPU_EXPERT or self.part.get(op) in ("gate", "shared"))

    def _parts(self, layer: int) -> tuple[Part, ...]:
        """What the host computes of a layer beside its experts, in order; -1 is the head."""
        stack = self.model.decoder
        if layer < 0:
            return ("head",) if len(self.layers) == stack.n_layers else ()
        if layer not in self.layers:
            return ()
        if layer in stack.bare_layers:
            return ("attention",)
        if layer not in stack.moe_layers:
            return ("attention", "dense")
        return ("attention", "gate", "shared") if self.model.n_shared_experts else ("attention", "gate")


def names_by_side(host: HostLayers, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Of the `names` of weights outside the experts those that the device reads, and those that the host does.

    The first layer reads the embedding, which may be the matrix of the head as well.
    """
    layers, model = host.layers, host.model
    here: set[str] = set(names)
    there: set[str] = set()
    if len(layers) == model.decoder.n_layers:
        return there, here
    for name in sorted(here) if layers else ():
        of_host = layer_of(name) in layers
        gate_ahead = host.gates_ahead and name.endswith((".gate", ".gate.bias")) and ".shared." not in name
        embeds = name == "embedding" and 0 in layers
        if of_host or gate_ahead or embeds or name == "decoder.positions":
            there.add(name)
        if (of_host and not gate_ahead) or (embeds and not model.tied_embeddings):
            here.discard(name)
    return here, there


def layer_of(name: str) -> int:
    """The decoder's layer that a weight is of; -1 of one that is of none."""
    side, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return int(part) if side == "decoder" and part.isdigit() else -1
