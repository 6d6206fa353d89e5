"""Speculative decoding as a part of a design: how many tokens are drafted, by what, and how many of them are taken.

`gamma=4:acceptance=0.8:draft=olmoe-1b-7b`, or a tree, `branches=4x2x1:acceptance=0.6/0.2/0.1`, `nodes=26:...`, or one
grown anew for each pass, `grown=60:varies=0.3:...`. It changes which tokens share a pass, never what a policy may see
of one. Nothing here may know time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from traces.errors import InvalidInput, check_least, unknown_name
from traces.foundation.documents import NUMBER, read_text
from traces.foundation.type_checks import check_fields
from traces.model.architecture import ModelArchitecture, load_architecture
from traces.transforms.draft_trees import MAX_DEPTH, MAX_PROPOSALS, Acceptance, DraftTree, branching, most_likely
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.rejected_routes import ROUTES

if TYPE_CHECKING:
    from traces.routing import RoutingTrace


MAX_GAMMA = MAX_DEPTH

SHAPES = ("gamma", "branches", "nodes", "grown")
"""The words that say how much is drafted, one of which begins a design's clause."""

_MAX_LIST_BYTES = 1 << 20
_GROWTH = {"depth": 6, "width": 10}
"""Of EAGLE-2 with every model of its paper (arXiv:2406.16858, appendix); it verifies 60, 50 or 48 proposals a pass."""

_WORDS = (*SHAPES, "varies", *_GROWTH, "acceptance", "draft", "rejected", "seed")
_FORM = (
    "gamma=4,acceptance=0.8 (a tree: branches=4x2x1, nodes=26 or grown=60,varies=0.3), then draft=none, draft=MODEL "
    "or draft=stated, rejected=elsewhere, seed=1"
)


@dataclass(frozen=True, slots=True)
class Speculation:
    """What is drafted for each pass that verifies: `gamma` tokens one after the other, or a tree.

    A tree has `branches` by level (SpecInfer's expansion), or is the best one of `nodes` proposals by the rates of what
    is taken, or is `grown` for each pass by what the draft is sure of there (EAGLE-2). `acceptance`: the probability
    that a proposal is taken when those beside it that are likelier are not, of each position alike (Leviathan et al.,
    2023); or `rates` by depth and rank; or `accepted`, how many of each pass were, dealt in order. The last two as
    typed, or from a file, `listed_in`. `draft`: the model on the device that proposes them, as `draft_name` names it;
    "stated": something that takes the stack's `draft_s` a level; "none": what takes no time, as looking up n-grams
    does. `rejected`: of `ROUTES`. `seed`: of what is drawn.
    Raises `InvalidInput` for numbers out of range, or two ways to say one thing.
    """

    gamma: int = 0
    acceptance: float | None = None
    accepted: tuple[int, ...] = ()
    listed_in: str = ""
    draft_name: str = "none"
    draft: ModelArchitecture | None = field(default=None, repr=True)
    rejected: str = "recorded"
    seed: int = 0
    branches: tuple[int, ...] = ()
    nodes: int = 0
    rates: tuple[tuple[float, ...], ...] = ()
    grown: GrownTrees | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.is_tree and self.gamma:
            raise InvalidInput("speculative decoding drafts gamma= tokens in a chain, or a tree: give one")
        if not self.is_tree and not 1 <= self.gamma <= MAX_GAMMA:
            raise InvalidInput(f"gamma = {self.gamma}: 1 to {MAX_GAMMA} tokens are drafted for a pass")
        if bool(self.branches) + bool(self.nodes) + (self.grown is not None) > 1:
            raise InvalidInput("a tree of drafts has branches=, nodes= or grown=: give one")
        if not 0 <= self.nodes <= MAX_PROPOSALS:
            raise InvalidInput(f"nodes = {self.nodes}: 1 to {MAX_PROPOSALS} are drafted for a pass")
        if (self.acceptance is not None) + bool(self.accepted) + bool(self.rates) != 1:
            raise InvalidInput(
                "speculative decoding needs one of acceptance=0.8, of every position, and acceptance=FILE, of each pass"
            )
        if (self.nodes or self.grown) and self.accepted:
            raise InvalidInput(
                f"{self._shape()} is the best tree by the rates of what is taken, acceptance={self.listed_in} lists "
                f"counts: give rates, or branches="
            )
        deepest = len(self.n_read)  # which checks rates and shapes
        if self.accepted and not 0 <= min(self.accepted) <= max(self.accepted) <= deepest:
            worst = next(n for n in self.accepted if not 0 <= n <= deepest)
            raise InvalidInput(
                f"acceptance={self.listed_in}: a pass took {worst} of gamma = {deepest} proposals: give the gamma "
                f"that was recorded"
            )
        if self.rejected not in ROUTES:
            raise unknown_name("route of rejected tokens", self.rejected, ROUTES)
        check_least("seed", self.seed, 0)
        if self.draft is not None and self.draft.is_encoder_decoder:
            raise InvalidInput(f"draft={self.draft_name} has an encoder: a draft is a decoder")
        if (self.draft is None) != (self.draft_name in ("none", "stated")):
            raise InvalidInput(f"draft={self.draft_name}: none, stated, or a model")

    def __str__(self) -> str:
        taken = self.listed_in if self.acceptance is None else f"{self.acceptance!r}"
        said = [self._shape(), f"acceptance={taken}"]
        said += [f"draft={self.draft_name}"] if self.draft_name != "none" else []
        said += [f"rejected={self.rejected}"] if self.rejected != _usual_route(self.is_tree) else []
        said += [f"seed={self.seed}"] if self.seed else []
        return ":".join(said)

    def _shape(self) -> str:
        """How much is drafted, as a user types it."""
        if (grown := self.grown) is not None:
            usual = {"depth": grown.n_levels, "width": grown.width}
            said = [f"{word}={n}" for word, n in usual.items() if n != _GROWTH[word]]
            return ":".join([f"grown={grown.n_proposals}", *said, f"varies={grown.varies!r}"])
        if self.branches:
            return f"branches={'x'.join(map(str, self.branches))}"
        return f"nodes={self.nodes}" if self.nodes else f"gamma={self.gamma}"

    @property
    def is_tree(self) -> bool:
        """Whether several tokens are proposed for one place."""
        return bool(self.branches or self.nodes or self.grown)

    @property
    def taken(self) -> Acceptance | None:
        """How often proposals are taken; None where each pass is listed."""
        return None if self.accepted else Acceptance(self.rates, self.acceptance)

    @property
    def tree(self) -> DraftTree | GrownTrees:
        """What is proposed for each pass."""
        taken = self.taken
        if self.grown is not None:
            return self.grown
        if self.nodes and taken is not None:
            return most_likely(self.nodes, taken)
        return branching(self.branches or (1,) * self.gamma)

    @property
    def n_read(self) -> tuple[int, ...]:
        """Tokens that the draft reads of a sequence in each of its passes."""
        return self.tree.n_read

    @property
    def is_timed(self) -> bool:
        """Whether the draft is something of which only the time is stated."""
        return self.draft_name == "stated"

    def of(self, trace: RoutingTrace) -> RoutingTrace:
        """`trace` in the passes that verify; one that is verified already stays as it is."""
        if trace.rejected is not None:
            return trace
        from traces.transforms.speculation import verified

        taken = self.taken
        return verified(
            trace, self.tree, self.accepted if taken is None else taken, seed=self.seed, rejected_route=self.rejected
        )

    def at(self, gamma: int | None, acceptance: float | None) -> Speculation | None:
        """With another length of the draft (0: none is), or acceptance; None leaves what it is.

        Raises `InvalidInput` for an acceptance beside a list of what was taken, or a length of a tree.
        """
        if gamma == 0:
            return None
        if gamma is not None and self.is_tree:
            raise InvalidInput(f"{self} is a tree, and gamma the length of a chain: leave the axis out, or say gamma=")
        moved = self if gamma is None else replace(self, gamma=gamma)
        if acceptance is None:
            return moved
        if self.acceptance is None:
            raise InvalidInput(
                f"acceptance={self.listed_in} lists what each pass took, or rates: no other acceptance beside it"
            )
        return replace(moved, acceptance=acceptance)


def speculation_named(text: str) -> Speculation:
    """What a user types: `gamma=4,acceptance=0.8,draft=olmoe-1b-7b`, in any order, by comma or colon.

    `branches=4x2x1`, `nodes=26`: a tree instead of a chain; `grown=60,varies=0.3`, with `depth=6,width=10` unless said:
    one grown for each pass. `acceptance`: a share; shares by rank, `0.6/0.2/0.1`; or a
    file: whole numbers, a line a pass, how many of its proposals were taken, or shares with a decimal point, a line a
    depth, by rank. `draft`: a model by name or file, `stated` or `none`. Rejected tokens of a tree are routed
    `elsewhere` unless said. Raises `InvalidInput`, `InvalidFile`, or `UnknownName` for a model.
    """
    said = _clauses(text)
    taken, name = said["acceptance"], said.get("draft", "none")
    is_number = NUMBER.fullmatch(taken) is not None
    counts, rates = ((), ()) if is_number else _by_rank(taken) or _listed(taken, text)
    return Speculation(
        gamma=int(said.get("gamma", 0)),
        branches=tuple(map(int, said["branches"].split("x"))) if "branches" in said else (),
        nodes=int(said.get("nodes", 0)),
        grown=_growth(said, text),
        acceptance=float(taken) if is_number else None,
        accepted=counts,
        rates=rates,
        listed_in="" if is_number else taken,
        draft_name=name,
        draft=None if name in ("none", "stated") else load_architecture(name),
        rejected=said.get("rejected", _usual_route("gamma" not in said)),
        seed=int(said.get("seed", 0)),
    )


def _clauses(text: str) -> dict[str, str]:
    """Values by word, each said once, numbers as whole ones; one shape of drafts and how many are taken among them."""
    said: dict[str, str] = {}
    for clause in re.split(r"[,:]", text.strip()):
        word, _, value = clause.strip().partition("=")
        if word == "draft_s":
            raise InvalidInput(
                f"speculative {text!r}: a design has no times: say draft=stated, and how long as stack.draft_s=2ms"
            )
        if word not in _WORDS or not value:
            raise InvalidInput(f"speculative {text!r}: {clause.strip()!r} is not of the form {_FORM}")
        if word in said:
            raise InvalidInput(f"speculative {text!r} says {word} twice: once is enough")
        said[word] = value
    shapes = [word for word in SHAPES if word in said]
    if len(shapes) != 1 or "acceptance" not in said:
        what = "acceptance" if shapes else "gamma"
        problem = f"says {' and '.join(shapes)}: give one" if len(shapes) > 1 else f"does not say {what}"
        raise InvalidInput(f"speculative {text!r} {problem}: {_FORM}")
    for number in ("gamma", "nodes", "grown", *_GROWTH, "seed"):
        if number in said and not re.fullmatch(r"\d{1,9}", said[number], re.ASCII):
            raise InvalidInput(f"speculative {text!r}: {number}={said[number]} is not a whole number")
    if "branches" in said and not re.fullmatch(r"\d{1,4}(x\d{1,4})*", said["branches"], re.ASCII):
        raise InvalidInput(f"speculative {text!r}: branches={said['branches']} is not of the form 4x2x1, a level each")
    for number in ("nodes", "grown"):
        if number in said and int(said[number]) < 1:
            raise InvalidInput(f"speculative {text!r}: {number}=0 proposes nothing, give 1 to {MAX_PROPOSALS}")
    return said


def _growth(said: Mapping[str, str], text: str) -> GrownTrees | None:
    """How trees grow, of what is said; None where none do."""
    if "grown" not in said:
        lost = next((word for word in ("varies", *_GROWTH) if word in said), None)
        if lost:
            raise InvalidInput(f"speculative {text!r}: {lost}= is of trees that grow: say grown=60, or leave it out")
        return None
    varies = said.get("varies", "")
    if not NUMBER.fullmatch(varies):
        raise InvalidInput(
            f"speculative {text!r}: a tree grows by what its draft is sure of: say varies=0.3, the share of it that "
            f"the context tells, from 0 to below 1"
        )
    n_levels, width = (int(said.get(word, usual)) for word, usual in _GROWTH.items())
    return GrownTrees(int(said["grown"]), n_levels, width, float(varies))


def _usual_route(is_tree: bool) -> str:
    """Siblings in a tree would all route as the token that was recorded: its width would cost nothing."""
    return "elsewhere" if is_tree else "recorded"


_Taken = tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]
"""Counts by pass, or rates by depth and rank."""


def _by_rank(typed: str) -> _Taken | None:
    """Shares by rank, of every depth alike: `0.6/0.2/0.1`; None of anything else."""
    parts = typed.split("/")
    if len(parts) > MAX_PROPOSALS or not all(NUMBER.fullmatch(part) for part in parts):
        return None
    return (), (tuple(map(float, parts)),)


def _listed(path: str, text: str) -> _Taken:
    """What a file lists, a line each. Raises `InvalidInput` where there is no such file or it holds anything else."""
    if not Path(path).is_file():
        raise InvalidInput(
            f"speculative {text!r}: acceptance={path} is neither a share such as 0.8, nor shares by rank such as "
            f"0.6/0.2, nor a file"
        )
    lines = [line.strip() for line in read_text(Path(path), _MAX_LIST_BYTES).splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise InvalidInput(f"{path} lists nothing: how many proposals each pass took, a line each")
    if any("." in line for line in found):
        return (), tuple(_shares(path, i, line) for i, line in enumerate(found, 1))
    for i, line in enumerate(found):
        if not re.fullmatch(r"\d{1,4}", line, re.ASCII):
            raise InvalidInput(f"{path}: {line[:40]!r} (number {i + 1}) is not how many tokens a pass took, such as 3")
    return tuple(map(int, found)), ()


def _shares(path: str, depth: int, line: str) -> tuple[float, ...]:
    """The shares by rank at one depth."""
    parts = re.split(r"[\s,/]+", line)
    if len(parts) > MAX_PROPOSALS or not all(NUMBER.fullmatch(part) for part in parts):
        raise InvalidInput(f"{path}: {line[:40]!r} (depth {depth}) is not shares by rank, such as 0.6 0.2 0.1")
    return tuple(map(float, parts))
