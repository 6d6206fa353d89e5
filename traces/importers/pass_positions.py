"""Places of tokens that a table counts within each pass, as engines do: places in their sequences."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np


def places_in_sequences(rows: Iterable[Mapping[str, str]]) -> Mapping[tuple[str, str, str], str] | None:
    """The place in its sequence of each sequence, step and stated place; None where places are of sequences already.

    They are counted within passes where one place of a sequence comes in several steps, and at all layers in each: a
    step that numbers rows, or layers, does not make it so.
    """
    tokens: dict[tuple[str, str, str], int] = {}
    places: dict[tuple[str, str], int] = {}
    layers: dict[str, int] = {}
    cells = array("q")
    for row in rows:
        if "step" not in row or "position" not in row:
            return None
        sequence, step, place = row.get("sequence", ""), row["step"], row["position"]
        i_token = tokens.setdefault((sequence, step, place), len(tokens))
        places.setdefault((sequence, place), len(places))
        cells.append((i_token << 16) + layers.setdefault(row["layer"], min(len(layers), (1 << 16) - 1)))
    if len(tokens) == len(places) or len(np.unique(np.frombuffer(cells, np.int64))) != len(tokens) * len(layers):
        return None
    try:
        order = sorted(tokens, key=lambda token: (token[0], int(token[1]), int(token[2])))
    except ValueError:
        return None
    n_before: dict[str, int] = {}
    found: dict[tuple[str, str, str], str] = {}
    for token in order:
        found[token] = str(n_before.get(token[0], 0))
        n_before[token[0]] = n_before.get(token[0], 0) + 1
    return found
