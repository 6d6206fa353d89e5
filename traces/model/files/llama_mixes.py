"""Files that mix formats by a published rule: what `Q4_K_M` and its like make of each part of a model.

The rule: ggml-org/llama.cpp, src/llama-quant.cpp, `llama_tensor_get_type_impl` (commit 007dbbf, without an importance
matrix where it matters). Names of other recipes (UD-Q2_K_XL, an engine's own) say no rule: their files do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from traces.model.attention import Attention
from traces.model.dtypes import Dtype, find_dtype, shares_dtype

if TYPE_CHECKING:
    from traces.model.layer_stack import LayerStack
    from traces.model.model_architecture import ModelArchitecture


Rule = Callable[[int, int], str | None]
"""The format at layer i of n; None: the mix's own."""


def _everywhere(name: str) -> Rule:
    return lambda i, n: name


def _first(name: str, share: int, then: str | None = None) -> Rule:
    """`name` in the first 1 / `share` of the layers."""
    return lambda i, n: name if i < n // share else then


def _first_layers(name: str, count: int, then: str | None = None) -> Rule:
    return lambda i, n: name if i < count else then


def _more(name: str) -> Rule:
    """`name` in the first and the last eighth, and every third layer between."""
    return lambda i, n: name if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else None


def _between(name: str) -> Rule:
    """`name` in all layers but the first and the last eighth."""
    return lambda i, n: name if n // 8 <= i < 7 * n // 8 else None


class Mix(NamedTuple):
    """`plain`: the format of what no rule names; then those of values, outputs and queries and keys of attention, of
    the last matrix and the others of an FFN. `grouped_value`: of values that four or more heads share. `eight_output`
    and `eight_keys`: of outputs, and of keys and values, in models of eight experts.
    """

    plain: str
    value: Rule | None = None
    output: Rule | None = None
    query_key: Rule | None = None
    down: Rule | None = None
    up: Rule | None = None
    grouped_value: str = ""
    embedding: str = ""
    head: str = "q6_k"
    eight_output: str = "q5_k"
    eight_keys: str = "q8_0"


MIXES: dict[str, Mix] = {
    "q2_k_s": Mix("q2_k", down=_first("q4_k", 8), grouped_value="q4_k", eight_output=""),
    "q3_k_s": Mix("q3_k"),
    "q3_k_m": Mix("q3_k", value=_first_layers("q5_k", 2, "q4_k"), output=_everywhere("q4_k"),
                  down=_first("q5_k", 16, "q4_k")),
    "q3_k_l": Mix("q3_k", value=_everywhere("q5_k"), output=_everywhere("q5_k"), down=_everywhere("q5_k"),
                  eight_output=""),
    "q4_k_s": Mix("q4_k", value=_first_layers("q5_k", 4), down=_first("q5_k", 8)),
    "q4_k_m": Mix("q4_k", value=_more("q6_k"), down=_more("q6_k")),
    "q5_k_s": Mix("q5_k", eight_output=""),
    "q5_k_m": Mix("q5_k", value=_more("q6_k"), down=_more("q6_k"), eight_output=""),
    "iq2_m": Mix("iq2_s", value=_everywhere("q4_k"), output=_everywhere("iq3_s"), down=_first("iq3_s", 8),
                 embedding="iq3_s", head="q5_k", eight_keys="q4_k"),
    "iq3_xs": Mix("iq3_s", query_key=_everywhere("iq3_xxs"), up=_between("iq3_xxs"), grouped_value="q4_k"),
    "iq3_m": Mix("iq3_s", value=_everywhere("q4_k"), output=_everywhere("q4_k"), down=_first("q4_k", 8)),
}  # fmt: skip
"""Mixes whose names no format has."""

_TWO_BITS = Mix("", value=_everywhere("q4_k"), down=_first("q2_k", 8), embedding="q2_k", head="q5_k", eight_keys="q4_k")
_ONE_BIT = _TWO_BITS._replace(output=_everywhere("iq2_xxs"))

_FILES: dict[str, Mix] = {
    "q2_k": Mix("q2_k", value=_everywhere("q3_k"), output=_everywhere("q3_k"), down=_everywhere("q3_k"),
                grouped_value="q4_k"),
    "iq1_s": _ONE_BIT._replace(plain="iq1_s"),
    "iq1_m": _ONE_BIT._replace(plain="iq1_m"),
    "iq2_xxs": _TWO_BITS._replace(plain="iq2_xxs"),
    "iq2_xs": _TWO_BITS._replace(plain="iq2_xs"),
    "iq2_s": MIXES["iq2_m"]._replace(plain="iq2_xs"),
    "iq3_xxs": Mix("iq3_xxs", output=_everywhere("iq3_s"), query_key=_everywhere("iq2_s"), grouped_value="q4_k",
                   embedding="iq3_s", head="q5_k"),
    "iq3_s": Mix("iq3_s", grouped_value="q4_k"),
    "iq4_xs": Mix("iq4_xs", grouped_value="q5_k"),
    "iq4_nl": Mix("iq4_nl", grouped_value="q5_k"),
    "tq1_0": Mix("tq1_0", embedding="q4_k", eight_output=""),
    "tq2_0": Mix("tq2_0", embedding="q4_k", eight_output=""),
    **{name: Mix(name, eight_output="") for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q6_k")},
    "q8_0": Mix("q8_0", head="q8_0", eight_output=""),
}  # fmt: skip
"""What whole files called by a format are: with an importance matrix where the format asks for one, and for iq4."""

_NARROWER = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "tq1_0": "q4_0", "tq2_0": "q4_0",
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
}  # fmt: skip
"""What matrices have instead, whose rows are no multiple of 256."""
_BLOCK = 256

_ONE_FORMAT_A_PART = "mxfp4_moe"
"""A mix whose rule names parts alone."""


def is_mix(name: str) -> bool:
    """Whether a name is that of a mix whose rule is known, in capitals or not."""
    return name.lower() in MIXES or name.lower() == _ONE_FORMAT_A_PART


def is_file(name: str) -> bool:
    """Whether a name is that of a whole file by a known rule: a mix, or a format that files are called by (`q2_k`)."""
    return is_mix(name) or name.lower() in _FILES


def mix_formats(model: ModelArchitecture, name: str) -> dict[str, Dtype]:
    """The format of each part of `model` in a file of the mix `name`, by shares of its weights; gates are in fp32.

    Linear mixers and projections of latent attention are taken to have the mix's own format.
    """
    name = name.lower()
    if name == _ONE_FORMAT_A_PART:
        wide = dict.fromkeys(("attention", "dense", "shared", "embedding", "head"), find_dtype("q8_0"))
        return wide | {"experts": find_dtype("mxfp4"), "gates": find_dtype("fp32")}
    mix = _mix(name)
    stack, d = model.decoder, model.d_model
    sparse = stack.moe_layers
    dense = [i for i in range(stack.n_layers) if i not in {*sparse, *stack.bare_layers}]
    head = find_dtype(_fitting("q8_0" if d % _BLOCK else mix.head, d))
    found = {
        "attention": _mean([row for i in range(stack.n_layers) for row in _attention(model, stack, i, mix)]),
        "experts": _ffn(mix, sparse, stack.n_layers, model.expert_width, model.d_ff_expert, model.n_expert_matrices),
        "shared": _ffn(mix, sparse, stack.n_layers, d, model.d_ff_shared or d, model.n_expert_matrices),
        "dense": _ffn(mix, dense or sparse, stack.n_layers, d, stack.d_ff_dense or d, stack.n_dense_matrices),
        "embedding": head if model.tied_embeddings else find_dtype(_fitting(mix.embedding or mix.plain, d)),
        "head": head,
    }
    return found | {"gates": find_dtype("fp32")}


def _mix(name: str) -> Mix:
    return MIXES.get(name) or _FILES[name]


def mix_layers(model: ModelArchitecture, name: str) -> dict[str, list[Dtype | None]]:
    """The same of each part that layers have, by layer of the decoder: None where a layer has none of it, and no parts
    where a rule gives all layers one format.
    """
    name = name.lower()
    if name == _ONE_FORMAT_A_PART or model.is_encoder_decoder:
        return {}
    mix, stack, d = _mix(name), model.decoder, model.d_model
    dense = stack.d_ff_dense or d
    found: dict[str, list[Dtype | None]] = {"attention": [], "dense": [], "shared": [], "experts": []}
    for i in range(stack.n_layers):
        rows, is_sparse = _attention(model, stack, i, mix), i in stack.moe_layers
        of = {
            "attention": _mean(rows) if rows else None,
            "dense": None if is_sparse or i in stack.bare_layers else
                     _ffn(mix, [i], stack.n_layers, d, dense, stack.n_dense_matrices),
        }  # fmt: skip
        if is_sparse:
            width, shared, n = model.expert_width, model.d_ff_shared or d, model.n_expert_matrices
            of |= {
                "experts": _ffn(mix, [i], stack.n_layers, width, model.d_ff_expert, n),
                "shared": _ffn(mix, [i], stack.n_layers, d, shared, n) if model.n_shared_experts else None,
            }
        for part, by_layer in found.items():
            by_layer.append(of.get(part))
    return found


def _attention(model: ModelArchitecture, stack: LayerStack, i: int, mix: Mix) -> list[tuple[int, str]]:
    """(weights, format) of the matrices that mix the tokens of layer `i`."""
    mixer, n = stack.mixer(i), stack.n_layers
    if mixer is None:
        return []
    if not isinstance(mixer, Attention):
        return [(out * k, _fitting(mix.plain, k)) for out, k in mixer.gemm_shapes(model.d_model)]
    value, output, query_key = (_at(rule, mix, i, n) for rule in (mix.value, mix.output, mix.query_key))
    grouped = mixer.n_heads >= 4 * mixer.n_kv_heads and mixer.kind != "mla"
    value = mix.grouped_value if grouped and mix.grouped_value else value
    if model.n_experts == 8:
        value, output = mix.eight_keys, mix.eight_output or output
    shapes = list(mixer.gemm_shapes(model.d_model))
    rows = [(out * k, _fitting(query_key, k)) for out, k in shapes]
    rows[-1] = shapes[-1][0] * shapes[-1][1], _fitting(output, shapes[-1][1])
    if mixer.kind == "mla":
        return rows
    keys = 2 if mixer.q_lora_rank else 1
    if model.n_experts == 8:
        rows[keys] = rows[keys][0], mix.eight_keys
    if not mixer.shared_key_value:
        rows[keys + 1] = rows[keys + 1][0], _fitting(value, model.d_model)
    return rows


def _ffn(mix: Mix, layers: tuple[int, ...] | list[int], n: int, width: int, d_ff: int, n_matrices: int) -> Dtype:
    """The mean over layers of an FFN's first matrices, one or two, and its last."""
    rows = [(n_matrices - 1, _fitting(_at(mix.up, mix, i, n), width)) for i in layers]
    return _mean(rows + [(1, _fitting(_at(mix.down, mix, i, n), d_ff)) for i in layers])


def _at(rule: Rule | None, mix: Mix, i: int, n: int) -> str:
    return (rule(i, n) if rule is not None else None) or mix.plain


def _fitting(name: str, row: int) -> str:
    """The format, or the one taken for rows that its blocks do not divide."""
    return _NARROWER.get(name, name) if row % _BLOCK else name


def _mean(rows: list[tuple[int, str]]) -> Dtype:
    """The one format of all rows (weights, format), or what share of their weights has which."""
    weights: Counter[str] = Counter()
    for n, name in rows:
        weights[name] += n
    return shares_dtype(weights)
