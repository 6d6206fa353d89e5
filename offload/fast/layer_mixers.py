"""What mixes the tokens of the layers of a stack, each once: costs of layers that are alike are one row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.decoding.work_rows import Works
from traces.model.architecture import Attention, LayerStack, LinearMixer


class LayerMixer(NamedTuple):
    """What mixes the tokens of some layers, and the works of layers that are stored as they are."""

    mixer: Attention | LinearMixer
    works: Works


def mixers_of(stack: LayerStack, works: Works, form: list[int]) -> tuple[tuple[LayerMixer, ...], NDArray[np.int64]]:
    """The distinct ones, and by layer which of them it has, -1 of none; `form` by layer: which of `works.each`."""
    mixers: dict[LayerMixer, int] = {}
    found: dict[tuple[int, int], int] = {}  # by identity: layers that are alike have one mixer
    layers = list(zip(stack.all_mixers, form, strict=True))
    for mixer, i in layers:
        if (id(mixer), i) not in found:
            one = None if mixer is None else LayerMixer(mixer, works.each[i])
            found[id(mixer), i] = -1 if one is None else mixers.setdefault(one, len(mixers))
    return tuple(mixers), np.array([found[id(mixer), i] for mixer, i in layers], np.int64)
