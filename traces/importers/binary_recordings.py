"""Binary recordings.

`mbolt`     MBLT v1, little-endian int32: magic "MBLT", 1, n_experts; then records layer, k, n_tokens,
            ids[n_tokens * k]. A pass ends where the layer number does not rise. A pass of one token is decode; in
            others the last layer may have its last token alone (MIT)
`rtrace01`  "RTRACE01", int32 n_experts, int32 0; then for a token and layer int32 token, int32 layer, and
            float32[n_experts] softmax: the k largest are chosen, k is the model's; phases are not recorded
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.importers.files.text_lines import regular_file
from traces.importers.recording import ModelShape, Origin, TokenRows, refused
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, RoutingTrace

MAX_BYTES = 2 << 30


def import_mbolt(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of an MBLT file. Raises `InvalidFile`."""
    words = _words(path)
    if len(words) < 3 or words[1] != 1 or not 1 <= words[2] <= MAX_EXPERTS:
        raise refused(path, f"MBLT version and experts are {words[1:3].tolist()}: version 1 is read")
    rows = TokenRows(path)
    at, first, n_tokens, last, sequence, decoding = 3, 0, 0, -1, 0, False
    while at < len(words):
        if at + 3 > len(words):
            raise refused(path, f"cut short in the record at byte {4 * at}")
        layer, k, n = words[at : at + 3].tolist()
        if not (0 <= layer < 4096 and 1 <= k <= 256 and 1 <= n <= 1 << 24) or at + 3 + n * k > len(words):
            raise refused(path, f"record at byte {4 * at}: layer {layer}, k {k}, {n} tokens: cut short?")
        if layer <= last or last < 0:
            first += n_tokens
            if decoding and n > 1:
                sequence, first = sequence + 1, 0
            n_tokens, decoding = n, n == 1
        last = layer
        if n not in (n_tokens, 1):
            raise refused(path, f"record at byte {4 * at}: {n} tokens in a pass of {n_tokens}")
        ids = words[at + 3 : at + 3 + n * k].reshape(n, k).tolist()
        for i, experts in enumerate(ids, start=first + n_tokens - n):
            rows.add(1, sequence, Phase.DECODE if decoding else Phase.PREFILL, i, layer, experts)
        at += 3 + n * k
    return rows.trace(Origin("mbolt MBLT v1", n_experts=int(words[2])), shape)


def import_rtrace(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The `shape.top_k` most probable experts of an RTRACE01 file. Raises `InvalidFile`."""
    words = _words(path)
    n_experts = int(words[2]) if len(words) > 3 else 0
    if not 1 <= n_experts <= MAX_EXPERTS or (len(words) - 4) % (n_experts + 2) or len(words) == 4:
        raise refused(path, f"not whole records of {n_experts} probabilities: cut short?")
    if shape.top_k is None:
        raise refused(path, "holds probabilities, not choices: say the model it is of (--model NAME)")
    if shape.top_k > n_experts:
        raise refused(path, f"{n_experts} experts, the model chooses {shape.top_k}")
    rows = TokenRows(path)
    records = words[4:].reshape(-1, n_experts + 2)
    for token, layer, *_ in records[:, :2].tolist():
        if token < 0 or layer < 0:
            raise refused(path, f"token {token}, layer {layer}: below 0")
    scores = np.ascontiguousarray(records[:, 2:]).view("<f4")
    if not np.isfinite(scores).all():
        raise refused(path, "a probability is not finite")
    best = np.argsort(-scores, axis=1, kind="stable")[:, : shape.top_k]
    weights = np.take_along_axis(scores, best, axis=1).tolist()
    for (token, layer), experts, weight in zip(records[:, :2].tolist(), best.tolist(), weights, strict=True):
        rows.add(1, 0, Phase.DECODE, token, layer, experts, weight)
    notes = ("phases are not recorded: every token counts as decode",)
    return rows.trace(Origin("fitz-tec RTRACE01", n_experts=n_experts, notes=notes), shape)


def _words(path: Path) -> NDArray[np.int32]:
    if regular_file(path, MAX_BYTES) % 4:
        raise refused(path, "not whole 32-bit numbers: cut short?")
    try:
        return np.fromfile(path, dtype="<i4")
    except OSError as error:
        raise refused(path, f"cannot be read ({error.strerror})") from error
