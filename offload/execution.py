"""How a software stack executes a policy: which host waits, copies and groupings a schedule contains.

These are facts about released code, not decisions; a stack names the execution it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from traces.errors import InvalidInput, unknown_name
from traces.phase import Phase

if TYPE_CHECKING:  # names of stacks are listed without arrays
    from traces.routing import Step


Fusing = Literal["each", "section", "layer"]
"""How experts of a block become ops: an op for `each`, as it is there; one fused op for a `section`, those of the layer
that are in the same place; one fused op for the `layer`, with all others that are said to run so."""

Indexed = Literal["gathered", "masked", "whole"]
"""What becomes of the tokens that an indexer picks: kernels read these alone, or all and mask the others; or no indexer
runs, and attention is to all."""

StreamsFrom = Literal["gate", "attention", "layer before"]
"""When experts that the host holds start to be streamed: once the gate of their layer has run, beside the attention of
their layer, or while the layer before computes."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One way to run the same decisions. Raises `UnknownName` or `InvalidInput` for a word or a count that is none."""

    name: str
    resident: Fusing
    """How experts that live in HBM become ops; a fused op starts once all of its experts are there."""
    cached: Fusing
    """The same of experts that a cache was found to hold."""
    arriving: Fusing
    """The same of experts that are fetched."""
    stage: bool
    """A fetched (or cached) expert is copied within HBM into the buffer that the FFN reads."""
    fetch_first: bool
    """The next block's fetch is issued before this block's FFN, as the released code does."""
    readback_per_fetch: bool
    """Every fetch reads the ids back, needed or not."""
    host_waits: bool
    """The host blocks until a block's experts are there, where events on the compute stream would do."""
    sync_after_ffn: bool
    """The host waits for every expert FFN."""
    splits_expert_buffer: bool
    """A caching allocator carves the KV cache out of one of the four weight buffers (n_experts times half an
    expert) and then allocates that buffer anew.
    """
    stores_scores: bool
    """Attention is not fused, so the scores of a forward pass are materialised."""
    n_host_buffers: int
    """Pinned buffers that storage is read into, 1 or 2: with one, a read waits until the link has emptied it; with
    two it runs beside the copy before.
    """
    host_computes: bool = False
    """The issuing thread computes what a placement puts on the host, and issues nothing meanwhile; else threads of
    their own do.
    """
    micro_batch: int = 0
    """Tokens of a prompt in one pass, 0 all."""
    stream_tokens: int = 0
    """Experts of the host are streamed to the device in passes of so many tokens at least, 0 never."""
    stream_per_expert: bool = False
    """`stream_tokens` counts those of each expert on average."""
    streams_from: StreamsFrom = "gate"
    """When such a stream starts. Before the gate nobody knows which experts were chosen: all of the layer are
    streamed.
    """
    streams_layers: bool = False
    """Such a pass streams whole layers of the host too: what they hold outside of routed experts, and their keys
    and values, one thing after the other.
    """
    decompress_tokens: int = 0
    """From so many tokens a pass on, latent attention of a prompt makes keys and values of all that it sees; 0: it
    absorbs that projection throughout.
    """
    made_moves: float = 2.0
    """How often each byte of keys and values so made is moved, written and read at least."""
    workspace_tokens: int = 0
    """A pass holds the activations inside a layer of so many tokens at a time, 0 of all."""
    micro_sequences: int = 0
    """Sequences of a pass that a layer computes together, 0 all; what was fetched for the layer serves one such
    micro-batch after the other.
    """
    sorts_on_host: bool = False
    """Before each matrix product of fused experts over more than one token the host waits for the ids and puts the
    rows in the order of their experts.
    """
    selects_on_host: bool = False
    """Before each matrix product of a single expert the host waits for the ids of the chosen ones."""
    loads_prompt_kernels: bool = False
    """The first pass of a run over several tokens is the first to launch what prompts run, which the driver loads
    then.
    """
    gathers_cells: bool = False
    """Before a layer's keys and values are streamed, the host lists the cells of the cache and sorts them."""
    zero_copy_rows: int = 0
    """Rows of activations that a kernel multiplies by weights which it asks for once, where they lie in host memory;
    more rows ask again. 0: kernels of this engine read no weights there.
    """
    fills_mask: bool = False
    """Before a pass of several tokens of a decoder the host looks, for each of them, at each cell of the cache that
    it may attend to.
    """
    input_copies: int = 0
    """Of several cards with whole layers each: copies that each has of what the host hands to a pass. The host may
    issue as many passes more before one has ended there; 0: one pass at a time.
    """
    shares_layers: bool = False
    """Several cards have a share of each layer (tensor parallelism), and add up what they computed of it."""
    may_share_layers: bool = False
    """They do so where they are told to, and take whole layers in turn otherwise."""
    first_hands_over: bool = False
    """Of cards that share layers the first hands over what experts of the host compute, whole, and adds it to its
    own part before the sum.
    """
    schedules_ahead: bool = False
    """The host decides on the next pass that makes tokens while this one computes (asynchronous scheduling); before
    the first alone it waits with nothing to hide behind.
    """
    indexed: Indexed = "gathered"
    """How attention sees the tokens that an indexer picks, where it does not compress."""
    mixes_prompts: bool = False
    """A server of it has prompts pass beside tokens of other requests, in parts."""

    def __post_init__(self) -> None:
        for how in (self.resident, self.cached, self.arriving):
            if how not in get_args(Fusing):
                raise unknown_name("way to fuse experts", how, get_args(Fusing), f"execution {self.name}")
        if self.indexed not in get_args(Indexed):
            raise unknown_name("way to see picked tokens", self.indexed, get_args(Indexed), f"execution {self.name}")
        if (
            min(
                self.micro_batch,
                self.stream_tokens,
                self.decompress_tokens,
                self.workspace_tokens,
                self.micro_sequences,
                self.zero_copy_rows,
                self.input_copies,
            )
            < 0
        ):
            raise InvalidInput(
                f"execution {self.name}: micro_batch, stream_tokens, decompress_tokens, workspace_tokens, "
                f"micro_sequences, zero_copy_rows and input_copies are counts, 0 or more"
            )
        if self.streams_from not in get_args(StreamsFrom):
            raise unknown_name("start of a stream", self.streams_from, get_args(StreamsFrom), f"execution {self.name}")
        if self.n_host_buffers not in (1, 2):
            raise InvalidInput(f"execution {self.name}: n_host_buffers = {self.n_host_buffers}: must be 1 or 2")

    def decompresses(self, step: Step) -> bool:
        """Whether latent attention makes keys and values of its context in a pass, where these are on the device."""
        return step.phase == Phase.PREFILL and 0 < self.decompress_tokens <= len(step.experts)

    @property
    def hands_slots_on(self) -> bool:
        """Whether an expert's slot is free once its own FFN has run: then those of a block need not fit at once."""
        return self.arriving == "each" and not self.host_waits

    @property
    def streams_chosen(self) -> bool:
        """Whether a prompt streams the experts that it chose, and no others."""
        return self.streams_from == "gate"

    @property
    def fuses_across(self) -> bool:
        """Whether which experts share an op depends on where each of a block is found."""
        return self.cached != self.arriving or self.cached == "section"


EXECUTIONS: dict[str, Execution] = {
    # Pre-gated MoE's public FasterTransformer fork: fetcher.cc, arena.cc, moe_kernels.cu (run_moe_fc).
    "fastertransformer": Execution(
        "fastertransformer",
        resident="layer",
        cached="layer",
        arriving="layer",
        stage=True,
        fetch_first=True,
        readback_per_fetch=True,
        host_waits=True,
        sync_after_ffn=True,
        splits_expert_buffer=True,
        stores_scores=True,
        n_host_buffers=1,
    ),
    # Events on cross-lane edges only; experts run straight from their slots: what our runtime executes.
    "streams": Execution(
        "streams",
        resident="each",
        cached="each",
        arriving="each",
        stage=False,
        fetch_first=False,
        readback_per_fetch=False,
        host_waits=False,
        sync_after_ffn=False,
        splits_expert_buffer=False,
        stores_scores=False,
        n_host_buffers=2,
    ),
}

_FUSED = replace(EXECUTIONS["streams"], name="fused", resident="layer", cached="layer", arriving="layer")
"""One fused matrix product over the experts of a layer, and nothing else that waits."""

EXECUTIONS |= {
    one.name: one
    for one in (
        # What a present-day engine does in place of `streams`: experts that stay in HBM run in one fused op a layer,
        # those cached or fetched from their slots, one by one; a long prompt passes each layer piece by piece.
        replace(EXECUTIONS["streams"], name="streams_fused", resident="layer", workspace_tokens=8192),
        # vLLM: one fused op a layer (vllm/model_executor/layers/fused_moe), prompts in chunks of max_num_batched_tokens
        # (2,048 on smaller cards: hwmodels/stacks/usual_passes.py), keys and values made of latents (mla/common.py).
        # Weights on the host are views that kernels read (model_executor/offloader/uva.py); tiles of experts have 64
        # rows where no other configuration is kept (get_default_config).
        # Several cards share every layer: two sums a layer, one of the embeddings, and the logits put together
        # (layers/linear.py: RowParallelLinear, layers/vocab_parallel_embedding.py, layers/logits_processor.py).
        # A step has a token of all that run, then prompts in parts (v1/core/sched/scheduler.py: schedule).
        # The next step is scheduled while this one runs (v1/engine/core.py: step_with_batch_queue), by default from
        # 0.14 of January 2026 on (its release notes; pull request 27614); SGLang's scheduler does so since 0.4.
        replace(
            _FUSED,
            name="vllm",
            micro_batch=8192,
            decompress_tokens=1,
            zero_copy_rows=64,
            shares_layers=True,
            schedules_ahead=True,
            mixes_prompts=True,
        ),
        # ggml's scheduler: layers split by where their tensors are; the thread that issues computes what is on the CPU.
        # llama.cpp: src/llama-graph.cpp (build_moe_ffn), ggml-backend.cpp, ggml-cuda.cu (offload_op: batches of 32 rows
        # and more are copied to the device).
        # Whoever warms up with one token (llama-sweep-bench) finds the kernels of prompts to be loaded, which takes
        # nothing where it is not stated (stack.load_s). On several cards passes of a prompt follow each other
        # (src/llama-context.cpp: pipeline_parallel; GGML_SCHED_MAX_COPIES); with `-sm tensor` they share every layer
        # (docs/multi-gpu.md). Its server batches a token of each slot that generates, then prompts up to n_batch
        # (update_slots). What an indexer picks becomes a mask over the whole context (pull request 23346, May 2026).
        replace(
            _FUSED,
            name="llama_cpp",
            indexed="masked",
            host_computes=True,
            micro_batch=512,
            stream_tokens=32,
            streams_layers=True,
            loads_prompt_kernels=True,
            mixes_prompts=True,
            input_copies=4,
            may_share_layers=True,
        ),
        # llama.cpp between April and August 2025 (pull requests 13199 and 15525): ggml_cuda_mul_mat_q fetches the ids,
        # sorts on the host for each of up, gate and down, and waits for the copy of the order as well. Before a pass
        # llama_kv_cache_unified::set_input_kq_mask fills the mask and looks at each of its entries, on one thread.
        replace(
            _FUSED,
            name="llama_cpp_2025",
            indexed="masked",
            host_computes=True,
            micro_batch=512,
            stream_tokens=32,
            streams_layers=True,
            sorts_on_host=True,
            loads_prompt_kernels=True,
            fills_mask=True,
            mixes_prompts=True,
            input_copies=4,
        ),
        # ik_llama.cpp streams a layer only where each of its experts gets 32 rows on average. It is built with one copy
        # of what passes are handed (ggml/CMakeLists.txt: GGML_SCHED_MAX_COPIES). With `-sm graph` cards share every
        # layer and add up twice in each (ggml/src/ggml-cuda/reduce.cu). Latents of a pass of 128 tokens and more become
        # keys and values of every head (src/graphs/build_deepseek2.cpp: pp_opt, all ways to attend but -mla 1): made in
        # 32 bits, cast to 16, keys put together with repeated rotated parts: of DeepSeek-V3 4,096 bytes a head and
        # token, whose keys and values are 640. Indexers run with --dsa alone (its pull request 2045).
        replace(
            _FUSED,
            name="ik_llama",
            indexed="whole",
            host_computes=True,
            micro_batch=512,
            stream_tokens=32,
            stream_per_expert=True,
            decompress_tokens=128,
            made_moves=6.4,
            loads_prompt_kernels=True,
            mixes_prompts=True,
            input_copies=1,
            may_share_layers=True,
        ),
        # mixtral-offloading (dvmazur/mixtral-offloading, src/expert_cache.py): load_experts queues the copies of a
        # layer on the stream that computes, so that no expert of the layer runs before the last of them is there.
        replace(EXECUTIONS["streams"], name="one_stream", cached="layer", arriving="layer"),
        # llama.cpp of December 2023: a node of the graph for each chosen expert and matrix (llm_build_ffn of Mixtral),
        # and ggml_cuda_mul_mat_id reads the ids back and waits for them, as llama.cpp pull request 4538 shows.
        replace(
            EXECUTIONS["streams"],
            name="llama_cpp_2023",
            indexed="masked",
            host_computes=True,
            micro_batch=512,
            stream_tokens=32,
            streams_layers=True,
            selects_on_host=True,
        ),
        # Pipelined Sharding, a fork of llama.cpp (deepshnv/pipeshard-mlsys26-ae: src/llama-pipeline-executor.h,
        # paper_results/repro_table4.sh): passes of 1,024 tokens. PipelineExecutor::compute queues copies of the next
        # split only, where that is streamed: attention stays (ATTN_PINNED_FFN_SHARDED), so the experts of a layer
        # are copied beside its attention, and nothing beside its experts.
        # It is llama.cpp b6097 of August 2025, where ggml_cuda_mul_mat_q fetched the ids and sorted on the host for
        # each of up, gate and down; llama.cpp pull request 15525 moved that to the device three weeks later.
        # llama-cli warms up with two tokens (common/common.cpp); pipeline_upload_kv_cells_for_seqs walks the cells of
        # all sequences and sorts them twice before it copies any.
        replace(
            _FUSED,
            name="pipelined_sharding",
            indexed="masked",
            host_computes=True,
            micro_batch=1024,
            stream_tokens=32,
            streams_from="attention",
            sorts_on_host=True,
            loads_prompt_kernels=True,
            gathers_cells=True,
            fills_mask=True,
        ),
        # FlexGen as MoE-Lightning's authors took it to Mixtral (lynnliu030/FlexGen: flexgen/flex_moe.py, fused_moe.py):
        # generation_loop_overlap_multi_batch synchronises after each layer and micro-batch, and load_weight copies a
        # layer with the first of them only; block_sparse_moe is MoE-Lightning's fused kernel over the experts of a
        # layer; the Python thread itself runs what the processor attends to.
        replace(_FUSED, name="flexgen", host_computes=True),
        # MoE-Lightning (caoshiyi/artifacts: fastmoe/backend/execution_engine.py): the processor attends in a thread of
        # its own while the device computes other micro-batches.
        replace(_FUSED, name="moe_lightning"),
        # gpt-fast (pytorch-labs/gpt-fast, mixtral-moe/model.py): weights of the chosen experts are indexed within the
        # products of a layer, so that nothing but the chosen is read and nothing waits.
        replace(_FUSED, name="gpt_fast"),
        # KTransformers: experts on threads of their own beside the shared experts, submitted from within a CUDA graph;
        # layers that it streams for a prompt (stream=TOKENS) arrive while the layer before computes. On several cards
        # rank 0 alone hands over to the processor and adds its whole experts (kvcache-ai/sglang,
        # layers/moe/kt_ep_wrapper.py); of experts on the device each card has a share, as SGLang has it.
        replace(
            _FUSED,
            name="ktransformers",
            micro_batch=8192,
            streams_from="layer before",
            shares_layers=True,
            first_hands_over=True,
        ),
    )
}
