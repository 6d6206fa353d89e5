"""Where the parts of a model live and run: in HBM, on the host's processor, or streamed through HBM for one use.

A placement is stated for any model; `place` says what it means for one. A policy decides within it: of the experts that
no placement holds, what to move and when. Nothing here may know time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from offload.execution import Execution
from offload.placing.layers import EVERYWHERE, LayerRange, Layers, layers_named, range_named
from traces.errors import InvalidInput
from traces.foundation.documents import NUMBER
from traces.model.architecture import ModelArchitecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AS_DECIDED", "Placed", "Placement", "place", "placement_named"]

_FORM = (
    "experts=cpu[:LAYERS][:keep=N or :share=S[:uniform]], experts=cpu:fit, layers=cpu[:LAYERS], "
    "experts or weights=stream[:LAYERS][:share=S], ahead=LAYERS, experts or weights=zerocopy[:LAYERS][:share=S], "
    "kv=cpu[:share=S], kv=stream[:share=S], ubatch=TOKENS, stream=TOKENS, micro=SEQUENCES, host=beside, "
    "experts=whole[:GROUPS], turns=STAGES, copies=COPIES"
)
_SHARED = ("experts", "weights", "kv")
"""Parts of which a share of the bytes may be elsewhere."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where parts of a decoder live that are not simply in HBM.

    `host_experts`: MoE layers whose routed experts live in host memory and run on the host's processor, but for
    `n_kept` of each layer, which stay in HBM (the most popular, or, `uniform`, the first, whatever is asked for).
    `host_layers`: layers that live and run there whole, attention and KV cache included; all of them take the head
    along. `streamed`, `streamed_experts`: layers whose weights outside the routed experts, or these, all of them, wait
    in host memory and pass through HBM in every forward pass, `ahead` layers of them before they are needed: 0 when
    their layer begins, n once the n-th of them before it has run, and the first n when the pass begins; None the next
    while one runs. `zero_copy_experts`, `zero_copy_weights`: layers whose routed experts, or weights outside of those,
    wait in host memory, where the device's kernels read them. `kv`: the KV cache of the other layers is in HBM
    ("device"), in host memory and attended to there ("host"), or streamed from there ("stream"). `expert_share`,
    `streamed_share`, `kv_share`: of the bytes of each, what is there and not in HBM, above 0, at most 1; of experts of
    the host, whole ones, over all layers as near as can be. How a prompt passes, None as the execution has it:
    `micro_batch` tokens in one pass, 0 all; `stream_from` tokens of a pass on experts of the host are streamed, 0
    never. `micro_sequences`: sequences that a layer computes together, what was fetched for it serving one such micro-
    batch after the other. `fits`: as many layers are kept off the host as HBM has room for, which is known where memory
    is planned. `beside`: threads of their own compute the host's experts while the device computes those of the same
    layer that are in HBM, in an engine whose issuing thread would do one after the other. `expert_groups`: of cards
    that share every layer so many groups have whole experts each, 0 each card; None: a share of every expert each.
    `turns`: groups of cards that a token passes through in turn, each of which has whole layers; None as the engine has
    it, 1: all share every layer. `copies` of attention, each on as many cards with sequences of its own, which share
    the experts.
    Raises `InvalidInput` for anything else.
    """

    host_experts: LayerRange | None = None
    n_kept: int = 0
    uniform: bool = False
    host_layers: LayerRange | None = None
    streamed: Layers | None = None
    streamed_experts: Layers | None = None
    ahead: int | None = None
    zero_copy_experts: LayerRange | None = None
    zero_copy_weights: LayerRange | None = None
    kv: str = "device"
    expert_share: float = 1.0
    streamed_share: float = 1.0
    kv_share: float = 1.0
    micro_batch: int | None = None
    stream_from: int | None = None
    micro_sequences: int | None = None
    fits: bool = False
    beside: bool = False
    expert_groups: int | None = None
    turns: int | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        if self.fits and (self.host_layers is not None or self.keeps or self.host_experts not in (None, EVERYWHERE)):
            raise InvalidInput("experts=cpu:fit chooses the layers of the host itself: name no others, and no keep=")
        if self.kv not in ("device", "host", "stream"):
            raise InvalidInput(f"kv = {self.kv!r}: a KV cache is on the device, on the host, or streamed (stream)")
        if self.beside and self.host_experts is None:
            raise InvalidInput("host=beside says how experts of the host run: give experts=cpu with it")
        if self.host_experts is not None and self.streamed_experts is not None:
            raise InvalidInput("experts=cpu and experts=stream: experts that are not in HBM have one home, give one")
        self._check_over_link()
        if self.ahead is not None and not self.streams:
            raise InvalidInput(f"ahead = {self.ahead} is of layers that are streamed: give weights=stream with it")
        if self.n_kept < 0:
            raise InvalidInput(f"keep = {self.n_kept} experts a layer is below 0")
        if self.micro_sequences is not None and self.micro_sequences < 1:
            raise InvalidInput(f"micro = {self.micro_sequences} sequences in a micro-batch is below 1")
        if self.micro_sequences is not None and (self.host_experts is not None or self.host_layers is not None):
            raise InvalidInput(
                f"micro = {self.micro_sequences}: micro-batches share what is fetched for a layer, and what the host "
                f"computes is not fetched: leave out experts=cpu and layers=cpu"
            )
        if self.n_kept and self.host_experts is None:
            raise InvalidInput(
                f"keep = {self.n_kept} says how many experts stay in HBM where experts=cpu puts the others"
            )

        for part, share, away in (
            (
                "experts",
                self.expert_share,
                (self.host_experts or self.zero_copy_experts or self.streamed_experts) is not None,
            ),
            ("weights", self.streamed_share, (self.streamed or self.zero_copy_weights) is not None),
            ("kv", self.kv_share, self.kv != "device"),
        ):
            if not 0 < share <= 1:
                raise InvalidInput(
                    f"{part}: share = {share:g} of the bytes is outside (0, 1]; leave the clause out for 0"
                )
            if share < 1 and not away:
                raise InvalidInput(f"{part}: share = {share:g} is of what is not in HBM, and all of it is")
        if self.expert_share < 1 and self.n_kept:
            raise InvalidInput("experts: keep and share both say what stays in HBM: give one")

    def _check_over_link(self) -> None:
        """Kernels that read host memory have the link to themselves."""
        if not self.zero_copies:
            return
        beside = {
            "experts=cpu": self.host_experts, "layers=cpu": self.host_layers, "weights=stream": self.streamed,
            "experts=stream": self.streamed_experts,
            f"kv={self.kv}": None if self.kv == "device" else self.kv, "micro": self.micro_sequences,
        }  # fmt: skip
        for clause, where in beside.items():
            if where is not None:
                raise InvalidInput(
                    f"zerocopy: kernels that read weights in host memory have the link to themselves here: leave out "
                    f"{clause}"
                )

    @property
    def streams(self) -> bool:
        """Whether weights pass through HBM in every forward pass."""
        return self.streamed is not None or self.streamed_experts is not None

    @property
    def zero_copies(self) -> bool:
        """Whether kernels of the device read weights in host memory."""
        return self.zero_copy_experts is not None or self.zero_copy_weights is not None

    @property
    def keeps(self) -> bool:
        """Whether some experts of layers on the host stay in HBM, so that their popularity matters."""
        return self.n_kept > 0 or (self.expert_share < 1 and self.host_experts is not None)

    def execution(self, execution: Execution) -> Execution:
        """`execution` with the prompt passing, and the host computing, as the placement says."""
        if self.micro_batch is not None:
            execution = replace(execution, micro_batch=self.micro_batch)
        if self.stream_from is not None:
            execution = replace(execution, stream_tokens=self.stream_from, stream_per_expert=False)
        if self.micro_sequences is not None:
            execution = replace(execution, micro_sequences=self.micro_sequences)
        return replace(execution, host_computes=False) if self.beside else execution

    def __str__(self) -> str:
        said = []
        if self.fits:
            said.append("experts=cpu:fit")
        elif self.host_experts is not None:
            said.append(
                f"experts=cpu{self.host_experts}"
                + (f":keep={self.n_kept}" if self.n_kept else _said(self.expert_share))
                + ":uniform" * (self.uniform and self.keeps)
            )
        if self.streamed_experts is not None:
            said.append(f"experts=stream{self.streamed_experts}{_said(self.expert_share)}")
        if self.zero_copy_experts is not None:
            said.append(f"experts=zerocopy{self.zero_copy_experts}{_said(self.expert_share)}")
        if self.host_layers is not None:
            said.append(f"layers=cpu{self.host_layers}")
        if self.streamed is not None:
            said.append(f"weights=stream{self.streamed}{_said(self.streamed_share)}")
        if self.ahead is not None:
            said.append(f"ahead={self.ahead}")
        if self.zero_copy_weights is not None:
            said.append(f"weights=zerocopy{self.zero_copy_weights}{_said(self.streamed_share)}")
        if self.kv != "device":
            said.append("kv=" + {"host": "cpu"}.get(self.kv, self.kv) + _said(self.kv_share))
        if self.micro_batch is not None:
            said.append(f"ubatch={self.micro_batch}")
        if self.stream_from is not None:
            said.append(f"stream={self.stream_from or 'never'}")
        if self.micro_sequences is not None:
            said.append(f"micro={self.micro_sequences}")
        if self.beside:
            said.append("host=beside")
        if self.expert_groups is not None:
            said.append("experts=whole" + (f":{self.expert_groups}" if self.expert_groups else ""))
        if self.turns is not None:
            said.append(f"turns={self.turns}")
        if self.copies > 1:
            said.append(f"copies={self.copies}")
        return "@".join(said)


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


AS_DECIDED = Placement()
"""All in HBM but what a policy moves."""


def placement_named(text: str) -> Placement:
    """The placement a user types: clauses `PART=WHERE`, joined by `@` or commas.

    `experts=cpu` (all layers), `experts=cpu:26` (the first 26 layers), `experts=cpu:12-47`, `experts=cpu:12-`,
    `experts=cpu:keep=28`, `experts=cpu:keep=28:uniform`; `experts=cpu:fit` (as few layers on the host as HBM allows);
    `layers=cpu:20`; `weights=stream`; `kv=cpu`, `kv=stream`; a share of the bytes, `experts=cpu:share=0.4`,
    `weights=stream:share=0.4`, `kv=cpu:share=0.5`; `experts=zerocopy:18`, `weights=zerocopy:18` (kernels read them in
    host memory); `experts=stream` (all of a layer with its other weights), `weights=stream:2/8` (the last two of every
    eight layers), `ahead=1`; `ubatch=2048`, `stream=32`, `stream=never`; `micro=8` (sequences in a micro-batch);
    `host=beside` (experts of the host while the device computes its own); `experts=whole` (each card has whole ones),
    `experts=whole:4` (each of four groups of cards); `turns=2` (each half of the cards has half of the layers),
    `turns=1` (all share every layer); `copies=4` (four of attention, for sequences of their own). Raises `InvalidInput`
    for anything else.
    """
    found = Placement()
    seen: set[str] = set()
    clauses = [clause.strip() for clause in re.split(r"[@,]", text.strip())]
    for clause in sorted(clauses, key=lambda one: one.startswith(("host=", "ahead="))):  # they are of what others place
        part, _, where = clause.partition("=")
        if part in seen:
            raise InvalidInput(f"placement {text!r} says {part} twice: once is enough")
        seen.add(part)
        found = _with_clause(found, part, where, text)
    return found


def _with_clause(found: Placement, part: str, where: str, text: str) -> Placement:
    """`found` with one clause, `part=where`, of the `text` of a placement. Raises `InvalidInput`."""
    if part in ("ubatch", "stream"):
        count = "0" if part == "stream" and where == "never" else where
        if not re.fullmatch(r"\d{1,7}", count, re.ASCII):
            raise InvalidInput(f"placement {text!r}: {part}={where} is no number of tokens")
        n = int(count)
        return replace(found, micro_batch=n) if part == "ubatch" else replace(found, stream_from=n)
    if part in ("turns", "copies"):
        if not re.fullmatch(r"[1-9]\d?", where, re.ASCII):
            raise InvalidInput(f"placement {text!r}: {part}={where} is no number of groups of cards, up to 99")
        return replace(found, turns=int(where)) if part == "turns" else replace(found, copies=int(where))
    if part == "host":
        if where != "beside":
            raise InvalidInput(f"placement {text!r}: host={where} is not host=beside")
        return replace(found, beside=True)
    if part in ("micro", "ahead"):
        if not re.fullmatch(r"\d{1,7}", where, re.ASCII):
            what = "sequences" if part == "micro" else "layers"
            raise InvalidInput(f"placement {text!r}: {part}={where} is no number of {what}")
        n = int(where)
        return replace(found, micro_sequences=n) if part == "micro" else replace(found, ahead=n)
    home, *rest = where.split(":")
    if part == "experts" and home == "whole":
        if len(rest) > 1 or not all(re.fullmatch(r"[1-9]\d?", word, re.ASCII) for word in rest):
            raise InvalidInput(f"placement {text!r}: {part}={where} is not experts=whole:GROUPS, up to 99")
        return replace(found, expert_groups=int(rest[0]) if rest else 0)
    wanted = {
        "experts": ("cpu", "stream", "zerocopy"), "layers": ("cpu",), "weights": ("stream", "zerocopy"),
        "kv": ("cpu", "stream"),
    }  # fmt: skip
    if part == "experts" and rest == ["fit"] and home == "cpu":
        return replace(found, host_experts=EVERYWHERE, fits=True)
    n_kept, uniform = 0, part == "experts" and rest[-1:] == ["uniform"] and len(rest) > 1
    if uniform:
        rest.pop()
    share = _share(rest.pop(), text) if part in _SHARED and rest and rest[-1].startswith("share=") else 1.0
    if home not in wanted.get(part, ()) or (part == "kv" and rest):
        raise InvalidInput(f"placement {text!r}: {part}={where} is not of the form {_FORM}")
    if part == "kv":
        return replace(found, kv={"cpu": "host"}.get(home, home), kv_share=share)
    if part == "experts" and home == "cpu" and rest and rest[-1].startswith("keep="):
        digits = rest.pop().removeprefix("keep=")
        if not re.fullmatch(r"\d{1,4}", digits, re.ASCII):
            raise InvalidInput(f"placement {text!r}: keep={digits} is not a number of experts a layer")
        n_kept = int(digits)
    if uniform and home != "cpu":
        raise InvalidInput(f"placement {text!r}: {part}={where} is not of the form {_FORM}")
    if home == "stream":
        streamed = layers_named(rest, text)
        if part == "experts":
            return replace(found, streamed_experts=streamed, expert_share=share)
        return replace(found, streamed=streamed, streamed_share=share)
    layers = range_named(rest, text)
    if home == "zerocopy" and part == "experts":
        return replace(found, zero_copy_experts=layers, expert_share=share)
    if home == "zerocopy":
        return replace(found, zero_copy_weights=layers, streamed_share=share)
    if part == "experts":
        return replace(found, host_experts=layers, n_kept=n_kept, uniform=uniform, expert_share=share)
    return replace(found, host_layers=layers)


def _share(word: str, text: str) -> float:
    """`share=0.4`. Raises `InvalidInput`."""
    digits = word.removeprefix("share=")
    if NUMBER.fullmatch(digits) is None or not 0 < float(digits) <= 1:
        raise InvalidInput(f"placement {text!r}: {word} is not a share of the bytes above 0, at most 1, such as 0.4")
    return float(digits)


def _said(share: float) -> str:
    return "" if share == 1 else f":share={share!r}"
