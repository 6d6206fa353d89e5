"""Speculative decoding as a part of a design: how many tokens are drafted, by what, and how many of them are taken.

`gamma=4:acceptance=0.8:draft=olmoe-1b-7b`. It changes which tokens share a pass, never what a policy may see of one.
Nothing here may know time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from traces.documents import NUMBER, read_text
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture, load_architecture
from traces.transforms.rejected_routes import ROUTES
from traces.typed import check_fields

if TYPE_CHECKING:
    from traces.routing import RoutingTrace

__all__ = ["MAX_GAMMA", "Speculation", "speculation_named"]

MAX_GAMMA = 64
"""Longest draft: a sequence of more tokens than any published one verifies."""

_MAX_LIST_BYTES = 1 << 20
_WORDS = ("gamma", "acceptance", "draft", "rejected", "seed")
_FORM = "gamma=4,acceptance=0.8, then draft=none, draft=MODEL or draft=stated, rejected=elsewhere, seed=1"


@dataclass(frozen=True, slots=True)
class Speculation:
    """`gamma` tokens are drafted for each pass that verifies them.

    `acceptance`: the probability that one is taken, of each position alike (Leviathan et al., 2023); or `accepted`,
    how many of each pass were, dealt in order, from a file called `listed_in`. `draft`: the model on the device that
    proposes them, as `draft_name` names it; "stated": something that takes the stack's `draft_s` a token; "none": what
    takes no time, as looking up n-grams does. `rejected`: of `traces.transforms.rejected_routes.ROUTES`. `seed`: of
    what is drawn. Raises `InvalidInput` for numbers out of range, or both ways to say what is taken.
    """

    gamma: int
    acceptance: float | None = None
    accepted: tuple[int, ...] = ()
    listed_in: str = ""
    draft_name: str = "none"
    draft: ModelArchitecture | None = field(default=None, repr=True)
    rejected: str = "recorded"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.gamma <= MAX_GAMMA:
            raise InvalidInput(f"gamma = {self.gamma}: 1 to {MAX_GAMMA} tokens are drafted for a pass")
        if (self.acceptance is None) == (not self.accepted):
            raise InvalidInput(
                "speculative decoding needs one of acceptance=0.8, of every position, and acceptance=FILE, of each pass"
            )
        if self.acceptance is not None and not 0 <= self.acceptance <= 1:
            raise InvalidInput(f"acceptance = {self.acceptance:g}: the share of proposals that are taken, from 0 to 1")
        if self.accepted and not 0 <= min(self.accepted) <= max(self.accepted) <= self.gamma:
            worst = next(n for n in self.accepted if not 0 <= n <= self.gamma)
            raise InvalidInput(
                f"acceptance={self.listed_in}: a pass took {worst} of gamma = {self.gamma} proposals: give the gamma "
                f"that was recorded"
            )
        if self.rejected not in ROUTES:
            raise unknown_name("route of rejected tokens", self.rejected, ROUTES)
        if self.seed < 0:
            raise InvalidInput(f"seed = {self.seed} is below 0")
        if self.draft is not None and self.draft.is_encoder_decoder:
            raise InvalidInput(f"draft={self.draft_name} has an encoder: a draft is a decoder")
        if (self.draft is None) != (self.draft_name in ("none", "stated")):
            raise InvalidInput(f"draft={self.draft_name}: none, stated, or a model")

    def __str__(self) -> str:
        taken = self.listed_in if self.acceptance is None else f"{self.acceptance!r}"
        said = [f"gamma={self.gamma}", f"acceptance={taken}"]
        said += [f"draft={self.draft_name}"] if self.draft_name != "none" else []
        said += [f"rejected={self.rejected}"] if self.rejected != "recorded" else []
        said += [f"seed={self.seed}"] if self.seed else []
        return ":".join(said)

    @property
    def is_timed(self) -> bool:
        """Whether the draft is something of which only the time is stated."""
        return self.draft_name == "stated"

    def of(self, trace: RoutingTrace) -> RoutingTrace:
        """`trace` in the passes that verify; one that is verified already stays as it is."""
        if trace.rejected is not None:
            return trace
        from traces.transforms.speculation import verified

        taken = self.accepted if self.acceptance is None else self.acceptance
        return verified(trace, self.gamma, taken, seed=self.seed, rejected_route=self.rejected)

    def at(self, gamma: int | None, acceptance: float | None) -> Speculation | None:
        """With another length of the draft (0: none is), or acceptance; None leaves what it is.

        Raises `InvalidInput` for an acceptance beside a list of what was taken.
        """
        if gamma == 0:
            return None
        moved = self if gamma is None else replace(self, gamma=gamma)
        if acceptance is None:
            return moved
        if self.acceptance is None:
            raise InvalidInput(f"acceptance={self.listed_in} lists what each pass took: no other acceptance beside it")
        return replace(moved, acceptance=acceptance)


def speculation_named(text: str) -> Speculation:
    """What a user types: `gamma=4,acceptance=0.8,draft=olmoe-1b-7b`, in any order, by comma or colon.

    `acceptance`: a share, or a file of whole numbers, a line a pass: how many of its proposals were taken. `draft`: a
    model by name or file, `stated` or `none`. Raises `InvalidInput`, `InvalidFile`, or `UnknownName` for a model.
    """
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
    for needed in ("gamma", "acceptance"):
        if needed not in said:
            raise InvalidInput(f"speculative {text!r} does not say {needed}: {_FORM}")
    for count in ("gamma", "seed"):
        if count in said and not re.fullmatch(r"\d{1,9}", said[count], re.ASCII):
            raise InvalidInput(f"speculative {text!r}: {count}={said[count]} is not a whole number")
    taken, name = said["acceptance"], said.get("draft", "none")
    is_number = NUMBER.fullmatch(taken) is not None
    return Speculation(
        gamma=int(said["gamma"]),
        acceptance=float(taken) if is_number else None,
        accepted=() if is_number else _listed(taken, text),
        listed_in="" if is_number else taken,
        draft_name=name,
        draft=None if name in ("none", "stated") else load_architecture(name),
        rejected=said.get("rejected", "recorded"),
        seed=int(said.get("seed", 0)),
    )


def _listed(path: str, text: str) -> tuple[int, ...]:
    """Whole numbers, a line each. Raises `InvalidInput` where there is no such file or it holds anything else."""
    if not Path(path).is_file():
        raise InvalidInput(f"speculative {text!r}: acceptance={path} is neither a share such as 0.8 nor a file")
    lines = [line.strip() for line in read_text(Path(path), _MAX_LIST_BYTES).splitlines()]
    found = [line for line in lines if line]
    for i, line in enumerate(found):
        if not re.fullmatch(r"\d{1,4}", line, re.ASCII):
            raise InvalidInput(f"{path}: {line[:40]!r} (number {i + 1}) is not how many tokens a pass took, such as 3")
    if not found:
        raise InvalidInput(f"{path} lists nothing: how many proposals each pass took, a line each")
    return tuple(map(int, found))
