"""Modules whose mutants are tried, each with the tests that have to notice a wrong line of it."""

from __future__ import annotations

_MEMORY = tuple(
    f"tests/unit/offload/{name}.py"
    for name in (
        "slots/test_memory",
        "slots/test_memory_copies",
        "slots/test_memory_guesses",
        "slots/test_memory_pieces",
        "slots/test_memory_runs",
        "slots/test_memory_swaps",
        "slots/test_low_bit_copies",
        "slots/test_tiers",
        "answers/test_misses",
    )
)
_DECODE = tuple(
    f"tests/unit/offload/decoding/test_decode{part}.py" for part in ("_by_hand", "_passes", "_dispatch", "_placed", "")
)
_PLACEMENT = ("tests/unit/offload/placing/test_placement_by_hand.py",)
_FOOTPRINT = tuple(
    f"tests/unit/offload/placing/test_{name}.py"
    for name in ("footprint", "footprint_parts", "placement", "placement_memory")
)
_EXPLAIN = ("tests/unit/simulator/explain/test_explain_by_hand.py", "tests/analytic/test_waits_for_slots.py")
_PRODUCTS = ("tests/unit/hwmodels/laws/test_products_longhand.py",)
_ATTENTION = ("tests/unit/hwmodels/laws/test_attention_longhand.py",)
_SYNTHESIS = tuple(
    f"tests/unit/traces/synthesis/test_{part}.py"
    for part in ("synthesis_by_hand", "filling_by_hand", "forced_routing", "synthesis")
)
_BY_LAYER = ("tests/unit/traces/model/test_layer_formats.py", "tests/agree/test_layers_stored_apart.py")

TARGETS = {
    "compiled/when_it_pays.py": ("tests/unit/compiled/test_when_it_pays.py",),
    "offload/work.py": ("tests/unit/offload/test_work.py",),
    "offload/ffn_work.py": (
        "tests/unit/offload/test_work.py",
        "tests/unit/offload/decoding/test_grouped_experts.py",
        "tests/unit/offload/placing/test_host_experts.py",
    ),
    "offload/metrics/run_metrics.py": (
        "tests/unit/offload/metrics/test_metrics.py",
        "tests/unit/offload/metrics/test_metrics_drafts.py",
    ),
    "offload/caches/eviction.py": (
        "tests/unit/offload/caches/test_eviction.py",
        "tests/unit/offload/caches/test_ranked_evictions.py",
        "tests/unit/offload/caches/test_residency.py",
    ),
    "offload/placing/footprint.py": _FOOTPRINT,
    "offload/placing/workload.py": _FOOTPRINT,
    "offload/caches/gate_output.py": ("tests/unit/offload/caches/test_gate_output.py",),
    "offload/placing/placement.py": _PLACEMENT,
    "offload/placing/placed.py": _PLACEMENT,
    "offload/placing/placement_clauses.py": _PLACEMENT,
    "offload/placing/layers.py": _PLACEMENT,
    "offload/placing/streamed_layers.py": ("tests/unit/offload/placing/test_streamed_layers.py",),
    "offload/cards/expert_groups.py": tuple(
        f"tests/agree/test_{name}.py" for name in ("whole_experts", "copied_attention", "layers_stored_apart")
    ),
    "offload/cards/many_cards.py": (
        "tests/unit/offload/cards/test_many_cards.py",
        *(f"tests/agree/test_{name}.py" for name in ("cards", "all_reduces", "copied_attention", "whole_experts")),
    ),
    "offload/cards/copied_attention.py": ("tests/agree/test_copied_attention.py",),
    "offload/placing/tiers.py": ("tests/unit/offload/placing/test_tiers_by_hand.py",),
    "offload/caches/admission.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/eviction_ranked.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/ranks_by_use.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/ranks_by_gates.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/slots/memory.py": _MEMORY,
    "offload/slots/resident_experts.py": _MEMORY,
    "offload/slots/waiting.py": _MEMORY,
    "offload/slots/free_slots.py": _MEMORY,
    "offload/slots/cache_slots.py": _MEMORY,
    "offload/slots/copies.py": _MEMORY,
    "offload/decode.py": _DECODE,
    "offload/decoding/decode_loop.py": (
        *_DECODE,
        "tests/unit/offload/decoding/test_decode_loop.py",
        "tests/unit/offload/policy_parts/test_granularity.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
        "tests/unit/traces/transforms/test_speculation.py",
    ),
    "offload/decoding/token_mixing.py": (
        *_DECODE,
        "tests/unit/offload/decoding/test_counts_of_experts.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
    ),
    "offload/decoding/micro_batches.py": (
        "tests/unit/offload/decoding/test_micro_batches_by_hand.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
        "tests/unit/offload/decoding/test_counts_of_experts.py",
    ),
    "offload/placing/host_side.py": (
        "tests/unit/offload/placing/test_host_side.py",
        "tests/unit/offload/placing/test_host_experts.py",
        *_DECODE,
        "tests/unit/offload/placing/test_placement.py",
        "tests/unit/offload/decoding/test_micro_batches_by_hand.py",
    ),
    "hwmodels/cost.py": tuple(
        f"tests/unit/hwmodels/{name}.py"
        for name in (
            "test_cost",
            "test_host_prices",
            "test_cost_formats",
            "test_prices_by_hand",
            "kernels/test_kernels",
            "calibrate/test_contention",
            "laws/test_law_prices",
            "kernels/test_floors",
            "kernels/test_row_blocks",
            "kernels/test_fused_counts",
            "calibrate/test_issue_times",
        )
    ),
    "hwmodels/calibrate/beside_copies.py": ("tests/unit/hwmodels/calibrate/test_beside_copies.py",),
    "hwmodels/kernels/roofline.py": (
        "tests/unit/hwmodels/kernels/test_kernels.py",
        "tests/unit/hwmodels/kernels/test_gemm_tables.py",
    ),
    "hwmodels/laws/rates.py": _PRODUCTS,
    "hwmodels/laws/gemm.py": (*_PRODUCTS, "tests/unit/hwmodels/laws/test_tile_dispatch.py"),
    "hwmodels/laws/beyond_table.py": ("tests/unit/hwmodels/laws/test_beyond_table_longhand.py",),
    "hwmodels/laws/families.py": ("tests/unit/hwmodels/laws/test_fitted_law.py",),
    "hwmodels/laws/fitted_law.py": ("tests/unit/hwmodels/laws/test_fitted_law.py",),
    "hwmodels/laws/benchmark_conditions.py": ("tests/unit/hwmodels/laws/test_benchmark_conditions.py",),
    "hwmodels/laws/attention.py": _ATTENTION,
    "hwmodels/laws/latent_attention.py": _ATTENTION,
    "hwmodels/laws/generated_kernels.py": _ATTENTION,
    "hwmodels/laws/moe.py": _PRODUCTS,
    "hwmodels/laws/pricing.py": (
        "tests/unit/hwmodels/laws/test_law_kernels.py",
        "tests/unit/hwmodels/laws/test_law_attention.py",
        "tests/unit/hwmodels/laws/test_law_prices.py",
    ),
    "simulator/recurrence.py": ("tests/unit/simulator/test_recurrence.py",),
    "simulator/resources.py": ("tests/analytic/test_sharing.py", "tests/analytic/test_sharing_drawn.py"),
    "simulator/serving/server_kernel.py": ("tests/agree/test_server_of_arrivals.py",),
    "simulator/serving/prompts_kernel.py": (
        "tests/unit/simulator/test_prompts_kernel.py",
        "tests/agree/test_server_of_arrivals.py",
    ),
    "simulator/serving/stages_kernel.py": ("tests/agree/test_server_of_arrivals.py",),
    "simulator/streamed/settled.py": ("tests/unit/simulator/test_settled.py",),
    "simulator/streamed/stream_parts.py": ("tests/agree/test_stream_parts.py",),
    "simulator/streamed/stream_kernel.py": ("tests/unit/simulator/test_settled.py", "tests/agree/test_stream_parts.py"),
    "simulator/explain/bounds.py": ("tests/unit/simulator/explain/test_bounds.py",),
    "simulator/explain/attribution.py": _EXPLAIN,
    "simulator/explain/critical_path.py": _EXPLAIN,
    "simulator/explain/path_sum.py": ("tests/unit/simulator/explain/test_path_sum.py",),
    "simulator/explain/sensitivity.py": _EXPLAIN,
    "pregate/economics/cost_draws.py": ("tests/unit/pregate/economics/test_cost_draws.py",),
    "pregate/economics/costing.py": ("tests/unit/pregate/economics/test_costing.py",),
    "pregate/economics/serving.py": ("tests/unit/pregate/economics/test_serving.py",),
    "pregate/economics/poc.py": ("tests/unit/pregate/economics/test_poc_by_hand.py",),
    "pregate/economics/machine_ranking.py": ("tests/unit/pregate/economics/test_machine_ranking_by_hand.py",),
    **dict.fromkeys(
        (f"pregate/optima/{name}.py" for name in ("goals", "pareto", "scoring", "optimum")),
        tuple(
            f"tests/unit/pregate/optima/test_{name}.py"
            for name in ("optima_by_hand", "optimize_goals", "optimize_pareto")
        ),
    ),
    "pregate/optima/candidates.py": (
        "tests/unit/pregate/optima/test_search_candidates.py",
        "tests/unit/pregate/optima/test_optima_by_hand.py",
    ),
    "pregate/optima/space.py": ("tests/unit/pregate/optima/test_search_space.py",),
    "pregate/optima/trials.py": ("tests/unit/pregate/optima/test_search_space.py",),
    "pregate/optima/optimize.py": ("tests/unit/pregate/optima/test_search_runs.py",),
    "pregate/sweeps/sweep_table.py": ("tests/unit/pregate/sweeps/test_sweep_table.py",),
    "pregate/engines/multi_card_flags.py": ("tests/unit/pregate/engines/test_multi_card_flags.py",),
    "pregate/cli/card_question.py": ("tests/unit/pregate/cli/test_card_question.py",),
    "pregate/cli/consent.py": ("tests/unit/pregate/cli/test_consent.py",),
    "pregate/measured/isca24/natural_routing.py": ("tests/unit/pregate/measured/isca24/test_natural_routing.py",),
    "traces/foundation/fast_yaml.py": ("tests/unit/traces/foundation/test_fast_yaml.py",),
    "traces/model/layer_formats.py": _BY_LAYER,
    "traces/model/layer_models.py": _BY_LAYER,
    "traces/synthesis/dials.py": _SYNTHESIS,
    "traces/synthesis/filling.py": _SYNTHESIS,
    "traces/synthesis/sequence_popularity.py": (
        "tests/unit/traces/synthesis/test_popularity_longhand.py",
        "tests/unit/traces/synthesis/test_filling_by_hand.py",
        "tests/unit/traces/synthesis/test_synthesis_by_hand.py",
    ),
    "traces/synthesis/fitting.py": ("tests/unit/traces/synthesis/test_synthesis_fits.py",),
    "traces/synthesis/forced.py": _SYNTHESIS,
    "traces/synthesis/sequence_starts.py": _SYNTHESIS,
    "traces/statistics/stack_distance.py": (
        "tests/unit/traces/statistics/test_stack_distance.py",
        "tests/unit/traces/statistics/test_layer_distances.py",
    ),
}
"""The tests that have to notice a wrong line of each module."""
