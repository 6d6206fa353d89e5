"""The format that a quantisation gives to each part of a model, by the modules that make up the part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.quantisation.module_names import (
    ATTENTIONS,
    Family,
    feed_forwards,
    from_layers,
    is_pattern,
    matches,
)
from traces.model.configs.quantisation.quantisation_methods import (
    fastdeploy_format,
    method_name,
    named_format,
    own_formats,
    rest_format,
    tensor_format,
)
from traces.model.configs.quantisation.quantisation_scope import EXCLUDED, refuse_unread_scope
from traces.model.dtypes import DTYPES, Dtype, find_dtype, mean_dtype
from traces.model.layer_stack import LayerStack

Formats = list[tuple[str, Dtype | None]]
"""Modules by name or by pattern, and their format; None: not converted."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """The format of a module: None where it is `excluded`; by its name or that of what it stands in; by the first
    pattern that means it; else `rest`. `numbered`: modules whose experts are named one by one.
    """

    rest: Dtype | None
    excluded: tuple[str, ...] = ()
    patterns: tuple[tuple[str, Dtype | None], ...] = ()
    exact: Mapping[str, Dtype | None] = field(default_factory=dict)
    numbered: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rest: Dtype | None, excluded: list[str], own: Formats) -> Scheme:
        """One from lists: names of modules apart from patterns."""
        named = [(name, None) for name in excluded if _is_name(name)] + [item for item in own if _is_name(item[0])]
        exact = {from_layers(name): form for name, form in reversed(named)}
        return cls(
            rest,
            tuple(name for name in excluded if not _is_name(name)),
            tuple(item for item in own if not _is_name(item[0])),
            exact,
            frozenset(name.partition(_EXPERTS)[0] for name in exact if _EXPERTS in name),
        )

    def form(self, module: str) -> Dtype | None:
        """The format of a module, named from `layers.` on."""
        if any(matches(pattern, module) for pattern in self.excluded):
            return None
        return self._named(module, self._by_pattern(module))

    def forms(self, module: str, n_experts: int) -> list[Dtype | None]:
        """The format of a module; that of each expert where experts are named by number."""
        before, found, after = module.partition(f"{_EXPERTS}0.")
        if not found or before not in self.numbered:
            return [self.form(module)]
        if any(matches(pattern, module) for pattern in self.excluded):
            return [None]
        rest = self._by_pattern(module)
        return [self._named(f"{before}{_EXPERTS}{expert}.{after}", rest) for expert in range(n_experts)]

    def _by_pattern(self, module: str) -> Dtype | None:
        return next((form for pattern, form in self.patterns if matches(pattern, module)), self.rest)

    def _named(self, module: str, rest: Dtype | None) -> Dtype | None:
        name = module
        while name:
            if name in self.exact:
                return self.exact[name]
            name = name.rpartition(".")[0]
        return rest


_EXPERTS = ".experts."


def _is_name(text: str) -> bool:
    return "layers." in text and not is_pattern(text)


def part_formats(
    quantisation: Mapping[str, Any],
    stack: LayerStack,
    d_model: int,
    n_experts: int,
    model_type: str,
    plain: Dtype,
    where: str,
) -> dict[str, Dtype]:
    """The format of each part, `plain` where it is not converted. Raises `InvalidFile` for what is not read."""
    refuse_unread_scope(quantisation, where)
    scheme = _scheme(quantisation, where)
    rest = {*stack.bare_layers, *stack.moe_layers}
    dense = tuple(layer for layer in range(stack.n_layers) if layer not in rest)
    found: dict[str, Weights] = {}
    for part, families in feed_forwards(method_name(quantisation), model_type).items():
        layers = dense if part == "dense" else stack.moe_layers
        found[part] = _in_layers(scheme, families, dict.fromkeys(layers or (0,), 1), n_experts)
    found["attention"] = _attention(scheme, stack, d_model)
    if scheme.rest is None and not any(form for forms in found.values() for form in forms):
        raise InvalidFile(
            f"{where}: of the modules that it names as converted none is known here: take the config.json of the "
            "unquantised model, and give the format with --dtype or --formats"
        )
    return {part: _mean_format(forms, plain) for part, forms in found.items()}


Weights = dict[Dtype | None, float]
"""Formats by how many weights have them."""


def _attention(scheme: Scheme, stack: LayerStack, d_model: int) -> Weights:
    """The formats of what mixes the tokens, kind by kind, layers by their weights."""
    kinds: dict[str, dict[int, int]] = {}
    for layer, mixer in enumerate(stack.all_mixers):
        if mixer is not None:
            kinds.setdefault(mixer.kind, {})[layer] = mixer.matrix_params(d_model)
    total: Weights = {}
    for kind, layers in kinds.items():
        for form, n_weights in _in_layers(scheme, ATTENTIONS.get(kind, ATTENTIONS[""]), layers).items():
            total[form] = total.get(form, 0.0) + n_weights
    return total or {scheme.rest: 1.0}


def _in_layers(scheme: Scheme, families: tuple[Family, ...], layers: Mapping[int, int], n_experts: int = 1) -> Weights:
    """Formats by weights, under the names of the family that the scheme says most about, the first of equal ones."""
    all_layers = float(sum(layers.values()))
    best: Weights = {scheme.rest: all_layers}
    for family in families:
        found: Weights = {}
        n_matrices = sum(_matrices(name) for name in family)
        for layer, n_weights in layers.items():
            for name in family:
                forms = scheme.forms(f"layers.{layer}.{name}", n_experts)
                for form in forms:
                    found[form] = found.get(form, 0.0) + n_weights * _matrices(name) / n_matrices / len(forms)
        if found.get(scheme.rest, 0.0) < best.get(scheme.rest, 0.0) - 1e-9 * all_layers:
            best = found
    return best


_FUSED = {
    "gate_up_proj": 2,
    "input_linear": 2,
    "query_key_value": 3,
    "qkv_proj": 3,
    "in_proj_qkvz": 4,
    "in_proj_qkv": 3,
    "in_proj": 2,
}


def _matrices(name: str) -> int:
    """How many matrices one module stands for."""
    return _FUSED.get(name.rpartition(".")[2], 1)


def _mean_format(found: Weights, plain: Dtype) -> Dtype:
    """One format of all, their mean bits where there are several; from 8 bits on multiplied as most weights are."""
    forms: dict[Dtype, float] = {}
    for form, n_weights in found.items():
        stored = plain if form is None else form
        forms[stored] = forms.get(stored, 0.0) + n_weights
    if len(forms) == 1:
        return next(iter(forms))
    bits = sum(form.bits * n for form, n in forms.items()) / sum(forms.values())
    most = max(forms, key=lambda form: (forms[form], form.bits))
    return mean_dtype(bits, most if min(form.bits for form in forms) >= 8 else None)


def _scheme(quantisation: Mapping[str, Any], where: str) -> Scheme:
    method = method_name(quantisation)
    excluded = _excluded(quantisation)
    if method == "compressed-tensors":
        return _compressed_tensors(quantisation, excluded, where)
    if method == "w4afp8":  # SGLang: routed experts in groups of 128, all else in eight bits
        return Scheme.of(DTYPES["fp8"], excluded, [("*.experts.*", find_dtype("int4-g128"))])
    if method == "fastdeploy":
        dense, experts = (fastdeploy_format(quantisation, part, where) for part in ("dense", "moe"))
        return Scheme.of(dense, excluded, [("*.experts.*", experts)])
    if method == "fp8" and quantisation.get("moe_quant_algo") is not None:  # what it ignores is left in eight bits
        experts = named_format(quantisation["moe_quant_algo"], where)
        return Scheme.of(rest_format(method, quantisation, where), [], [("*.experts.*", experts)])
    if method == "mxfp4":
        return Scheme.of(None, excluded, [("*.experts.*", DTYPES["mxfp4"])])
    if method in ("modelopt", "modelopt-fp4", "modelopt-mixed", "nvfp4"):
        return _modelopt(quantisation, excluded, where)
    if method == "ascend":
        return _ascend(quantisation, where)
    rest, own = rest_format(method, quantisation, where), own_formats(method, quantisation, where)
    listed = quantisation.get("modules_in_block_to_quantize")  # GPTQ: in lists, one a step
    if method == "gptq" and isinstance(listed, list) and listed:
        names = [str(name) for step in listed for name in (step if isinstance(step, list) else [step])]
        return Scheme.of(None, excluded, [*own, *((f".{name}", rest) for name in names)])
    return Scheme.of(rest, excluded, own)


def _modelopt(quantisation: Mapping[str, Any], excluded: list[str], where: str) -> Scheme:
    """NVIDIA ModelOpt: one algorithm for all that is not excluded, or one a module."""
    layers = quantisation.get("quantized_layers")
    if isinstance(layers, dict) and layers:
        own: Formats = [
            (str(name), named_format(item.get("quant_algo"), where))
            for name, item in layers.items()
            if isinstance(item, dict)
        ]
        return Scheme.of(None, excluded, own)
    return Scheme.of(named_format(quantisation.get("quant_algo") or _group_format(quantisation), where), excluded, [])


def _group_format(quantisation: Mapping[str, Any]) -> str | None:
    """The algorithm by the bits of the first group, as newer ModelOpt states them."""
    groups = quantisation.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return None
    first = next(iter(groups.values()))
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    return {4: "NVFP4", 8: "FP8"}.get(bits) if isinstance(bits, int) else None


def _compressed_tensors(quantisation: Mapping[str, Any], excluded: list[str], where: str) -> Scheme:
    """vLLM compressed-tensors: groups of modules, by class or by name, each with its weights' format."""
    groups = quantisation.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise InvalidFile(f"{where}: config_groups is missing: take the unquantised config.json and give --dtype")
    sparsity = quantisation.get("sparsity_config")
    pruned = sparsity.get("format", "dense") if isinstance(sparsity, dict) else "dense"
    if pruned not in ("dense", None):
        raise InvalidFile(
            f"{where}: sparsity_config: format {str(pruned)[:40]!r} leaves weights out, which is not read: take the "
            "config.json of the unquantised model, and give its bits a weight with --dtype, such as w5"
        )
    rest: Dtype | None = None
    own: Formats = []
    for name, group in reversed(groups.items()):
        weights = group.get("weights") if isinstance(group, dict) else None
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(weights, dict) or not isinstance(targets, list):
            raise InvalidFile(f"{where}: config_groups: {name} has no targets, or no weights")
        stored = tensor_format(weights, where)
        rest = stored if "Linear" in targets else rest
        own = [(str(target), stored) for target in targets if target != "Linear"] + own
    return Scheme.of(rest, excluded, own)


_ASCEND = {
    "FLOAT": None, "W8A8": "int8", "W8A16": "int8", "W4A16": "int4", "W4A8": "int4", "W4A4": "int4",
    "W8A8_MXFP8": "mxfp8", "W4A4_MXFP4": "mxfp4", "W4A8_MXFP": "mxfp4",
}  # fmt: skip


def _ascend(quantisation: Mapping[str, Any], where: str) -> Scheme:
    """MindStudio ModelSlim (Ascend): a word for each tensor. Group sizes stand once for all, 0 for a column."""
    group = quantisation.get("group_size")
    size = group if type(group) is int and group > 0 else 1 << 20
    words: dict[str, Dtype | None] = {}
    own: Formats = []
    for name, word in quantisation.items():
        if not isinstance(word, str) or not name.endswith(".weight") or "layers." not in name:
            continue
        if word not in words:
            known = _ASCEND.get(word.removesuffix("_DYNAMIC"), "")
            if known == "":
                raise InvalidFile(f"{where}: {name[:80]}: {word[:40]!r} is not read: give the format with --dtype")
            words[word] = None if known is None else find_dtype(f"int4-g{size}" if known == "int4" else known)
        own.append((name, words[word]))
    return Scheme.of(None, [], own)


def _excluded(quantisation: Mapping[str, Any]) -> list[str]:
    """Patterns of modules that are not converted."""
    return [str(item) for key in EXCLUDED for item in quantisation.get(key) or ()]
