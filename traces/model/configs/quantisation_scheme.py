"""The format that a quantisation gives to each part of a model, by the modules that stand for the part."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.module_names import (
    FAMILIES,
    PARTS,
    from_layers,
    is_pattern,
    matches,
    matches_any,
    same_but_for_layer,
)
from traces.model.configs.quantisation_methods import A_COLUMN, method_name, own_formats, weight_format
from traces.model.dtypes import DTYPES, Dtype, find_dtype
from traces.model.layer_stack import LayerStack

__all__ = ["Scheme", "quantisation_scheme"]

Scheme = Callable[[tuple[str, ...]], Dtype | None]
"""The format of a part by the modules that stand for it; None: it is not quantised."""


def quantisation_scheme(quantisation: Mapping[str, Any], stack: LayerStack, where: str) -> Scheme:
    """The formats that a description gives to the parts of a model. Raises `InvalidFile` for what is not read."""
    method = method_name(quantisation)
    excluded = _excluded(quantisation)
    if method == "compressed-tensors":
        return _compressed_tensors(quantisation, excluded, where)
    if method == "mxfp4":  # the experts only
        packed = DTYPES["mxfp4"]
        return lambda names: packed if names is PARTS["experts"] and not matches_any(excluded, names) else None
    if method in ("modelopt", "modelopt-fp4", "modelopt-mixed", "nvfp4"):
        return _modelopt(quantisation, excluded, where)
    stored = weight_format(method, quantisation, where)
    own = own_formats(method, quantisation, where)
    of_layers = {name for name in excluded if re.search(r"layers\.\d", name) and not is_pattern(name)}
    own += [(name, None) for name in excluded if name in of_layers]
    if own:
        general = [name for name in excluded if name not in of_layers]
        return lambda names: None if matches_any(general, names) else _mean_format(names, own, stored, stack)
    return lambda names: None if matches_any(excluded, names) else stored


def _mean_format(
    names: tuple[str, ...], own: list[tuple[str, Dtype | None]], stored: Dtype, stack: LayerStack
) -> Dtype | None:
    """The format of a part some modules of which have their own: that of all, or their mean bits by layer and matrix.

    From 8 bits on the format of the most. `own`: patterns and formats, None where a module is not converted; `stored`:
    the format of the rest.
    """
    exact = {from_layers(pattern): form for pattern, form in own if not is_pattern(pattern)}
    patterns = [(pattern, form) for pattern, form in own if is_pattern(pattern)]
    sparse = set(stack.moe_layers)
    layers = list(range(stack.n_layers))
    if names != PARTS["attention"]:
        layers = [layer for layer in layers if (layer in sparse) != (names == PARTS["dense"])]
    found: list[Dtype | None] = [stored]
    for family in FAMILIES[names]:
        modules = [f"layers.{layer}.{name}" for layer in layers for name in family]
        found = [_own_format(module, exact, patterns, stored) for module in modules] or [stored]
        if set(found) != {stored}:
            break
    if len(set(found)) == 1:
        return found[0]
    bits = sum(16.0 if form is None else form.bits for form in found) / len(found)
    return find_dtype(f"w{round(bits, 3):g}") if bits < 8 else None if found.count(None) * 2 >= len(found) else stored


def _own_format(
    module: str, exact: Mapping[str, Dtype | None], patterns: list[tuple[str, Dtype | None]], stored: Dtype
) -> Dtype | None:
    """The format of one module: by its name or that of what it stands in, by the first pattern, or that of the rest."""
    name = module
    while name:
        if name in exact:
            return exact[name]
        name = name.rpartition(".")[0]
    return next((form for pattern, form in patterns if matches(pattern, f"model.{module}")), stored)


_MODELOPT = {
    "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4", "W4A16_MXFP4": "mxfp4", "W4A8_MXFP4_FP8": "mxfp4", "MXFP8": "mxfp8",
    "FP8": "fp8", "FP8_PB_WO": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_REAL": "fp8",
    "W4A16_AWQ": "int4-g128", "W4A8_AWQ": "int4-g128", "INT4_AWQ": "int4-g128", "W8A16": "int8", "W8A8_SQ": "int8",
}  # fmt: skip
"""Algorithms of NVIDIA ModelOpt by the format of their weights."""


def _modelopt(quantisation: Mapping[str, Any], excluded: list[str], where: str) -> Scheme:
    """NVIDIA ModelOpt: one algorithm for all that is not excluded, or one a layer."""
    layers = quantisation.get("quantized_layers")
    if isinstance(layers, dict) and layers:
        named = {str(name): item for name, item in layers.items() if isinstance(item, dict)}

        def of_layer(names: tuple[str, ...]) -> Dtype | None:
            for name, item in named.items():
                if any(same_but_for_layer(name, module) for module in names):
                    return _algorithm(item.get("quant_algo"), where)
            return None

        return of_layer
    stored = _algorithm(quantisation.get("quant_algo") or _group_format(quantisation), where)
    return lambda names: None if stored is None or matches_any(excluded, names) else stored


def _algorithm(name: Any, where: str) -> Dtype | None:
    if name is None or str(name).upper() in ("NONE", "NO_QUANT"):
        return None
    if str(name).upper() not in _MODELOPT:
        raise InvalidFile(f"{where}: quant_algo {str(name)[:40]!r} is not read: give the format with --dtype")
    return find_dtype(_MODELOPT[str(name).upper()])


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
    read = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(weights, dict) or not isinstance(targets, list):
            raise InvalidFile(f"{where}: config_groups: {name} has no targets, or no weights")
        read.append(([str(target) for target in targets], _tensor_format(weights, str(group.get("format", "")), where)))

    def scheme(names: tuple[str, ...]) -> Dtype | None:
        if matches_any(excluded, names):
            return None
        by_name = [stored for targets, stored in read if matches_any([t for t in targets if t != "Linear"], names)]
        by_class = [stored for targets, stored in read if "Linear" in targets]
        found = [*by_name, *by_class]
        return found[0] if found else None

    return scheme


def _tensor_format(weights: Mapping[str, Any], form: str, where: str) -> Dtype:
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") == "float":
        if bits == 4:
            return DTYPES["mxfp4" if group == 32 else "nvfp4"]
        if bits == 8:
            return DTYPES["mxfp8" if group == 32 else "fp8"]
    elif isinstance(bits, int) and 1 <= bits <= 8:
        if bits == 8 and group is None:
            return DTYPES["int8"]
        zero = "" if weights.get("symmetric", True) else "-zp"
        size = A_COLUMN if group in (None, -1) else group
        if type(size) is not int or size < 1:
            raise InvalidFile(
                f"{where}: group_size = {str(group)[:40]}, expected 1 or more weights, or -1 for a column"
            )
        return find_dtype(f"int{bits}-g{size}{zero}", where)
    raise InvalidFile(f"{where}: weights of {bits!r} bits of type {weights.get('type')!r} are not read: give --dtype")


def _excluded(quantisation: Mapping[str, Any]) -> list[str]:
    """Patterns of modules that are not converted."""
    found: list[str] = []
    for key in (
        "modules_to_not_convert",
        "ignore",
        "exclude_modules",
        "ignored_layers",
        "exclude",
        "llm_int8_skip_modules",
        "skip_modules",
        "linear_weights_not_to_quantize",
    ):
        value = quantisation.get(key)
        if isinstance(value, list):
            found += [str(item) for item in value]
    return found
