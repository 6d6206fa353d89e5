"""What a placement means for one model: which of its layers and experts are where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.placing.placement import Placement
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement of one model."""

    host_layers: frozenset[int]
    """Layers of the decoder that live and run on the host."""
    streamed_layers: frozenset[int]
    """Layers of the decoder whose weights outside the routed experts pass through HBM."""
    kept: tuple[frozenset[int] | None, ...]
    """By MoE layer, numbered through the model: the experts in HBM where the others run on the host; None where a
    policy decides.
    """
    kv: str
    """Where the KV cache of the other layers is, as of `Placement`."""
    streamed_share: float = 1.0
    """Of the bytes of each layer that is streamed or read in host memory, what is not in HBM."""
    kv_share: float = 1.0
    """Of the bytes of the KV cache, what is not in HBM."""
    zero_copy_experts: frozenset[int] = frozenset()
    """Layers of the decoder whose kernels read their routed experts in host memory."""
    zero_copy_weights: frozenset[int] = frozenset()
    """Layers whose other weights are read so."""
    expert_share: float = 1.0
    """Of the bytes of each expert that is read so, what is not in HBM."""
    streamed_experts: frozenset[int] = frozenset()
    """Layers of the decoder whose routed experts are streamed."""
    ahead: int | None = None
    """Layers of those streamed that are brought before they are needed, as of `Placement`."""
    n_cards: int = 1
    """Cards that hold whole layers each, or a share of every layer."""
    expert_groups: int = 1
    """Groups of these cards that hold whole experts each."""
    held: tuple[tuple[int, ...], ...] = ()
    """By MoE layer the experts of these groups, one group after the other, as many each; empty: in order, each once."""
    turns: int = 1
    """Groups of these cards with layers of their own, through which a token passes in turn."""
    copies: int = 1
    """Copies of attention, for sequences of their own."""

    @property
    def n_sharing(self) -> int:
        """Cards that share attention of a layer, in an engine whose cards do."""
        return self.n_cards // self.turns // self.copies

    @property
    def n_redundant(self) -> int:
        """Replicas of experts of a layer, of all groups."""
        return len(self.held[0]) - len(set(self.held[0])) if self.held else 0

    @property
    def zero_copies(self) -> bool:
        """Whether kernels of the device read weights in host memory."""
        return bool(self.zero_copy_experts or self.zero_copy_weights)

    @property
    def is_plain(self) -> bool:
        """Whether all is in HBM but what a policy moves."""
        away = self.host_layers or self.streamed_layers or self.streamed_experts or self.zero_copies
        plain = not away and self.kv == "device"
        return plain and all(one is None for one in self.kept)

    @property
    def n_decided(self) -> int:
        """MoE layers whose experts a policy moves, or keeps."""
        return sum(one is None for one in self.kept)

    @property
    def n_kept(self) -> int:
        """Experts in HBM throughout, of all layers whose others run on the host."""
        return sum(len(one) for one in self.kept if one is not None)


def place(model: ModelArchitecture, placement: Placement, popularity: NDArray[np.float64] | None = None) -> Placed:
    """What `placement` means for `model`. `popularity`: (n_moe_layers, n_experts), how often each expert is chosen.

    Raises `InvalidInput` for layers that the decoder has not, more kept experts than a layer has, or a KV cache away
    from HBM in a model that has cross-attention or mixers of several kinds.
    """
    import numpy as np  # on use: a policy that is only named needs no arrays

    stack = model.decoder
    layers = {
        name: frozenset(() if where is None else where.of(stack.n_layers))
        for name, where in (
            ("host", placement.host_layers), ("experts", placement.host_experts), ("streamed", placement.streamed),
            ("streamed experts", placement.streamed_experts),
            ("zero-copy experts", placement.zero_copy_experts), ("zero-copy weights", placement.zero_copy_weights),
        )
    }  # fmt: skip
    if placement.n_kept > model.n_experts:
        raise InvalidInput(f"keep = {placement.n_kept} experts a layer: {model.name} has {model.n_experts}")
    if placement.kv != "device" and (model.is_encoder_decoder or not stack.is_uniform):
        raise InvalidInput(f"kv = {placement.kv}: of a decoder whose layers all have one kind of attention only")
    kept: list[frozenset[int] | None] = [None] * model.n_moe_layers
    here, n_here = (1 - placement.expert_share) * model.n_experts, 0.0  # experts a layer that stay; so far, in all
    for block, layer in enumerate(stack.moe_layers):
        at = model.n_encoder_moe_layers + block
        if layer in layers["host"]:
            kept[at] = frozenset()
        elif layer in layers["experts"]:
            order = np.arange(model.n_experts)
            if popularity is not None and not placement.uniform:
                order = np.argsort(-popularity[at], kind="stable")
            n_kept = placement.n_kept or int(n_here + here + 0.5) - int(n_here + 0.5)
            n_here += here
            kept[at] = frozenset(order[:n_kept].tolist())
    return Placed(
        layers["host"],
        layers["streamed"] - layers["host"],
        tuple(kept),
        placement.kv,
        placement.streamed_share,
        placement.kv_share,
        layers["zero-copy experts"] & set(stack.moe_layers),
        layers["zero-copy weights"],
        placement.expert_share,
        (layers["streamed experts"] - layers["host"]) & set(stack.moe_layers),
        placement.ahead,
    )
