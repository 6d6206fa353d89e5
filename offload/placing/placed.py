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

__all__ = ["Placed", "place"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement of one model.

    `host_layers`, `streamed_layers`: of the decoder. `kept`: by MoE layer (numbered through the model) the experts in
    HBM where the others run on the host; None where a policy decides. `zero_copy_experts`, `zero_copy_weights`: layers
    of the decoder whose kernels read such weights in host memory. `streamed_experts`: those whose routed experts are
    streamed, `ahead` layers before. `streamed_share`, `kv_share`, `expert_share`: of the
    bytes of each layer that is streamed or read so, of the KV cache, and of each expert that is read so, what is not in
    HBM. `n_cards` hold whole layers each, or a share of every layer; of those, `expert_groups` hold whole experts each.
    In `turns` of them each group has layers of its own. Attention is there in `copies`.
    """

    host_layers: frozenset[int]
    streamed_layers: frozenset[int]
    kept: tuple[frozenset[int] | None, ...]
    kv: str
    streamed_share: float = 1.0
    kv_share: float = 1.0
    zero_copy_experts: frozenset[int] = frozenset()
    zero_copy_weights: frozenset[int] = frozenset()
    expert_share: float = 1.0
    streamed_experts: frozenset[int] = frozenset()
    ahead: int | None = None
    n_cards: int = 1
    expert_groups: int = 1
    turns: int = 1
    copies: int = 1

    @property
    def n_sharing(self) -> int:
        """Cards that share attention of a layer, in an engine whose cards do."""
        return self.n_cards // self.turns // self.copies

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
