"""Arrays of chosen experts in the forms that they are saved in: ids, ids as floats, masks over all experts.

`ids`   [..., k] whole numbers of any type, -1 pads, no expert twice in a row
`mask`  [..., n_experts] true or 1 where an expert was chosen, as many in every row; or one-hot, [..., k, n_experts]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_TOP_K = 256
_MAX_ID_AS_FLOAT = 1023  # counts are floats too, and larger
_LOOK = 4096


def are_choices(array: NDArray[Any], repeats: float = 0.0) -> bool:
    """Whether an array shows itself to be of choices: not of counts, in whose rows numbers come again, nor of scores.

    `repeats`: the share of rows of whole numbers that may repeat one, as those of a broken recording do.
    """
    if array.ndim < 2 or not array.size:
        return False
    if _is_mask(array):
        return True
    if array.shape[-1] > _MAX_TOP_K or not _is_whole(array) or array.min() < -1:
        return False
    again = _repeats(array)
    if array.dtype.kind == "f":  # scores may be whole too: pads are the last of a row
        padded = bool((np.diff((array == -1).astype(np.int8), axis=-1) < 0).any())
        return bool(array.max() <= _MAX_ID_AS_FLOAT) and not padded and not again.any()
    again[(array <= 0).all(axis=-1)] = False  # a layer without experts, which engines fill with 0
    return bool(again.mean() <= repeats)


def as_choices(array: NDArray[Any], n_axes: int) -> NDArray[Any]:
    """The experts [..., k] of ids or of a mask, of `n_axes`; another array as it is."""
    if _is_mask(array):
        if array.ndim == n_axes + 1 and array.shape[-1] > 1 and bool((array.sum(axis=-1) == 1).all()):
            return np.asarray(array.argmax(axis=-1))
        if array.ndim == n_axes:
            return _of_mask(array)
    return array


def _is_mask(array: NDArray[Any]) -> bool:
    """Whether true, or 1, stands as often in every row: at least once, not everywhere."""
    if array.dtype.kind != "b" and not (array.dtype.kind in "iuf" and _is_binary(array)):
        return False
    chosen = np.count_nonzero(array, axis=-1)
    k, n_experts = int(chosen.max(initial=0)), array.shape[-1]
    least = int(chosen.min(initial=k))
    if array.dtype.kind == "b":  # tokens that no expert was recorded for
        return 0 < k < n_experts and bool(((chosen == k) | (chosen == 0)).all())
    return bool(n_experts > 2 and 0 < k == least < n_experts)  # of two, 0 and 1 are the ids of both


def _of_mask(array: NDArray[Any]) -> NDArray[np.int64]:
    """The ids of what is chosen in each row, in rising order; -1 where nothing is."""
    k = int(np.count_nonzero(array, axis=-1).max())
    ids = np.full((*array.shape[:-1], k), -1, dtype=np.int64)
    some = array.any(axis=-1)
    ids[some] = np.nonzero(array[some])[-1].reshape(-1, k)
    return ids


def _is_binary(array: NDArray[Any]) -> bool:
    return all(bool(((part == 0) | (part == 1)).all()) for part in _first_then_all(array))


def _is_whole(array: NDArray[Any]) -> bool:
    if array.dtype.kind in "iu":
        return True
    return array.dtype.kind == "f" and all(
        bool(np.isfinite(part).all() and (part == np.rint(part)).all()) for part in _first_then_all(array)
    )


def _first_then_all(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A few numbers of an array, which tell most, and the whole."""
    return array.reshape(-1)[:_LOOK], array


def _repeats(array: NDArray[Any]) -> NDArray[np.bool_]:
    """The rows in which an expert comes twice."""
    rows = np.sort(array, axis=-1)
    found: NDArray[np.bool_] = ((np.diff(rows, axis=-1) == 0) & (rows[..., 1:] >= 0)).any(axis=-1)
    return found
