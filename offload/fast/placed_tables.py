"""What a placement has where, and what that costs, as `decode_kernel` reads it: `offload.placing.host_side`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from offload.decoding.decode_job import DecodeJob
from offload.decoding.work_rows import Rows, Works
from offload.fast.block_unions import BlockUnions
from offload.fast.kernels import kernel_layout as layout
from offload.ops import Work
from offload.placing.host_side import listed_cells, scores_of, split_attention, streams_experts
from offload.placing.streamed_layers import LayerStreams, ZeroCopies, host_layer_bytes
from traces.model.architecture import LayerStack

Tables = dict[str, NDArray[np.int64]]

_KV = {"device": layout.KV_DEVICE, "host": layout.KV_HOST, "stream": layout.KV_STREAM}
_STREAMS_FROM = {
    "gate": layout.FROM_GATE, "attention": layout.FROM_ATTENTION, "layer before": layout.FROM_LAYER_BEFORE
}  # fmt: skip

_NO_TABLE = np.zeros(0, np.int64)


class PlacedTables:
    """Of passes of `n_tokens` (n_passes,) through one `stack`; an encoder, which `encoding` says, is on the device."""

    def __init__(
        self, job: DecodeJob, works: Works, rows: Rows, stack: LayerStack, encoding: bool, n_tokens: NDArray[np.int64]
    ) -> None:
        assert job.placed is not None
        self._n_tokens = n_tokens
        self._streams = np.array([streams_experts(job.execution, job.model, n) for n in n_tokens.tolist()], np.bool_)
        self._streams_layers = self._streams & job.execution.streams_layers
        self._job, self._works, self._rows, self._stack, self._placed = job, works, rows, stack, job.placed
        self._passing = LayerStreams(job.model, job.placed)
        self._is_away = not encoding and not self._placed.is_plain
        self._host_layers = self._placed.host_layers if self._is_away else frozenset[int]()
        self.home = np.zeros(job.model.n_moe_layers, np.bool_)
        self.kept = np.zeros((job.model.n_moe_layers, job.model.n_experts), np.bool_)
        """By MoE layer whether its experts have a home; by expert whether that is HBM."""
        for i, kept in enumerate(self._placed.kept if self._is_away else ()):
            self.home[i] = kept is not None
            self.kept[i, sorted(kept or ())] = True

    def on_device(
        self, moe_layer: NDArray[np.int64], experts: NDArray[np.int64], i_pass: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether each of `experts` of `moe_layer` in a pass, (n,) all, is computed on the device."""
        if not self.home.any():
            return np.ones(len(experts), np.bool_)
        model = self._job.model
        blocks = [layer in self._host_layers for layer in model.decoder.moe_layers]
        of_host = np.array([*[False] * model.n_encoder_moe_layers, *blocks])
        here = ~self.home[moe_layer] | self.kept[moe_layer, experts]
        stays = of_host[moe_layer] & ~self._streams_layers[i_pass]
        found: NDArray[np.bool_] = here | (self._streams[i_pass] & ~stays)
        return found

    def plan(self) -> dict[str, int]:
        """Words on the placement."""
        execution = self._job.execution
        return {
            "AWAY": int(self._is_away),
            "FUSED_AT_HOME": int(execution.resident != "each"),
            "KV": _KV[self._placed.kv] if self._is_away else layout.KV_DEVICE,
            "STREAMS_FROM": _STREAMS_FROM[execution.streams_from],
            "N_HOST_LAYERS": len(self._host_layers),
            "N_MATRICES": self._job.model.n_expert_matrices,
            "SELECTS": int(execution.selects_on_host),
            "AHEAD": -1 if self._passing.ahead is None else self._passing.ahead,
            "N_STREAMED": len(self._passing.order),
            "ZERO_COPIES": int(self._is_away and self._placed.zero_copies),
        }

    def of_layers(self) -> Tables:
        """Where layers and experts are, and what weights cost that are streamed."""
        model, works, n_layers = self._job.model, self._works, self._stack.n_layers
        on_host, weights = np.zeros(n_layers, np.int64), np.full(n_layers, -1, np.int64)
        on_host[sorted(self._host_layers)] = 1
        places = np.full(n_layers, -1, np.int64)
        order = self._passing.order if self._is_away else ()
        for i, layer in enumerate(order):
            weights[layer], places[layer] = self._rows.of(works.stream(self._passing.n_bytes[layer])), i
        streamed = np.full(n_layers, -1, np.int64)
        if self._streams_layers.any() and self._host_layers:
            for layer, n_bytes in host_layer_bytes(model, self._job.execution, self._placed).items():
                streamed[layer] = self._rows.of(works.stream(n_bytes))
        counts = range(0)
        if self.home.any() and self._streams.any():
            counts = range(model.n_experts + 1)
        return {
            "HOST_LAYER": on_host,
            "COST_WEIGHTS": weights,
            "COST_HOST_WEIGHTS": streamed,
            "STREAMED_LAYER": np.array(order, np.int64),
            "STREAMED_AT": places,
            "HOME": self.home.astype(np.int64),
            "KEPT": self.kept.astype(np.int64),
            "COST_STREAM": self._rows.of_moe_layers(Works.stream_experts, works, counts),
        }

    def of_zero_copies(self, unions: BlockUnions) -> Tables:
        """By pass and layer what kernels read in host memory."""
        if not (self._is_away and self._placed.zero_copies):
            return {"COST_READ_MIXING": _NO_TABLE, "COST_READ_FFN": _NO_TABLE}
        reads = ZeroCopies(self._job.model, self._placed, self._job.execution.zero_copy_rows)
        block_of = {layer: i for i, layer in enumerate(self._stack.moe_layers)}
        experts, blocks = (
            np.diff(np.append(0, np.cumsum(of))[unions.ptr]).reshape(-1, unions.n_blocks)
            for of in (unions.tokens > 0, reads.blocks(unions.tokens))
        )
        n_bytes = np.zeros((2, len(self._n_tokens), self._stack.n_layers, 2), np.int64)
        for layer in range(self._stack.n_layers):
            n_bytes[0, :, layer] = np.stack(reads.mixing(layer, self._n_tokens), axis=-1)
            if layer not in self._stack.bare_layers:
                i = block_of.get(layer)
                asked = (0, 0) if i is None else (experts[:, i], blocks[:, i])
                n_bytes[1, :, layer] = np.stack(reads.ffn(layer, self._n_tokens, *asked), axis=-1)
        sizes, place = np.unique(n_bytes.reshape(-1, 2), axis=0, return_inverse=True)
        rows = np.array(
            [self._rows.of(self._works.zero_copy(*both) if both[0] else None) for both in sizes.tolist()], np.int64
        )
        mixing, ffn = rows[place].reshape(2, -1)
        return {"COST_READ_MIXING": mixing, "COST_READ_FFN": ffn}

    def of_passes(self, n_heads: NDArray[np.int64]) -> Tables:
        """By pass: whether it streams experts, what sorting its rows costs, and the head on the host."""
        rows, works, n_tokens = self._rows, self._works, self._n_tokens
        sort = np.full(len(n_tokens), -1, np.int64)
        if self._job.execution.sorts_on_host:
            sort = rows.of_counts(lambda n: works.sort(n) if n > 1 else None, n_tokens)
        heads = self._on_host("CPU_HEAD", Works.head, n_heads)
        streams = {"STREAMS": self._streams.astype(np.int64), "STREAMS_LAYERS": self._streams_layers.astype(np.int64)}
        return streams | {"COST_SORT": sort, **heads}

    def of_parts(self, n_tokens: NDArray[np.int64]) -> Tables:
        """By micro-batch of `n_tokens`: what layers of the host cost but attention."""
        n_shared = n_tokens if self._job.model.n_shared_experts else np.zeros_like(n_tokens)
        return {
            **self._on_host("CPU_GATE", Works.gate, n_tokens),
            **self._on_host("CPU_DENSE", lambda works, n: works.dense(self._stack, n), n_tokens),
            **self._on_host("CPU_SHARED", Works.shared, n_shared),
        }

    def _on_host(self, name: str, make: Callable[[Works, int], Work | None], counts: NDArray[np.int64]) -> Tables:
        def made(works: Works, n: int) -> Work | None:
            what = make(works, n) if n else None
            return None if what is None else works.cpu_layer(what)

        return {name: self._rows.of_forms(made, self._works, counts) if self._host_layers else _NO_TABLE}

    def of_mixing(self, whats: Sequence[Work], crossing: Sequence[Work | None], made_by: Sequence[Works]) -> Tables:
        """Costs of attention: `whats` by micro-batch and mixer, `made_by` by mixer, `crossing` by micro-batch; those
        that are equal one object.
        """
        works, kv, share = self._works, self._placed.kv if self._is_away else "device", self._placed.kv_share
        tables = {
            "COST_SELF_ATTENTION": self._each(whats, lambda what: what),
            "COST_SCORES": _NO_TABLE,
            "COST_GATHER": _NO_TABLE,
        }
        if kv == "host":
            tables["COST_SELF_ATTENTION"] = self._each(whats, lambda what: split_attention(what, share)[0])
            tables["COST_SCORES"] = self._each(whats, lambda what: scores_of(works, split_attention(what, share)[1]))
        elif kv == "stream":
            tables["COST_SCORES"] = self._each(whats, lambda what: works.stream(int(what.hbm_bytes * share)))
            tables["COST_GATHER"] = np.full(len(whats), -1, np.int64)
            if self._job.execution.gathers_cells:
                tables["COST_GATHER"] = self._each(whats, lambda what: self._gather(int(what.hbm_bytes * share)))
        host = bool(self._host_layers)
        streamed = whats if host and self._streams_layers.any() else ()
        return tables | {
            "COST_HOST_CACHE": self._each(streamed, lambda what: works.stream(what.hbm_bytes)),
            "COST_CROSS_ATTENTION": self._each(crossing, lambda what: what),
            "CPU_SELF_ATTENTION": self._on_cpu(whats if host else (), made_by),
            "CPU_CROSS_ATTENTION": self._each(crossing if host else (), works.cpu_layer),
        }

    def _on_cpu(self, whats: Sequence[Work], made_by: Sequence[Works]) -> NDArray[np.int64]:
        """The rows of `whats` by micro-batch and mixer, computed by the host."""
        n, rows = len(made_by), np.empty(len(whats), np.int64)
        for i, works in enumerate(made_by):
            rows[i::n] = self._each(whats[i::n], works.cpu_layer)
        return rows

    def _gather(self, n_bytes: int) -> Work:
        """The cells of so many bytes of keys and values of one layer listed."""
        return self._works.gather(listed_cells(self._job.model, n_bytes))

    def _each(self, whats: Sequence[Work | None], make: Callable[[Work], Work]) -> NDArray[np.int64]:
        """The rows of `make` of each of `whats`, -1 of none."""
        distinct = {id(what): what for what in whats}
        row = {key: -1 if what is None else self._rows.of(make(what)) for key, what in distinct.items()}
        return np.array([row[id(what)] for what in whats], np.int64)
