"""The storage format that one description of a quantisation gives to the weights it converts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traces.errors import InvalidFile
from traces.model.dtypes import DTYPES, Dtype, find_dtype

A_COLUMN = 1 << 20
"""A group as large as a column: its one scale weighs nothing."""
_ALIASES = {
    "gptqmodel": "gptq", "auto-gptq": "gptq", "gptq-marlin": "gptq", "marlin": "gptq", "moe-wna16": "gptq",
    "autoawq": "awq", "awq-marlin": "awq", "intel/auto-round": "auto-round", "autoround": "auto-round",
    "fbgemm-fp8": "fp8", "finegrained-fp8": "fp8", "ptpc-fp8": "fp8", "w8a8-fp8": "fp8",
    "eetq": "int8", "w8a8-int8": "int8",
    "blockwise-int8": "int8", "bitsandbytes-4bit": "bitsandbytes", "bitsandbytes-8bit": "bitsandbytes",
    "exl2": "exl", "exl3": "exl",
}  # fmt: skip


def method_name(quantisation: Mapping[str, Any]) -> str:
    """The method under one spelling, by its fields where none is stated: those of GPTQ, bitsandbytes or MLX."""
    method = str(quantisation.get("quant_method") or "").lower().replace("_", "-")
    if not method and (quantisation.get("load_in_4bit") or quantisation.get("load_in_8bit")):
        method = "bitsandbytes"
    if not method and quantisation.get("config_groups"):
        method = "compressed-tensors"
    of_parts = {"dense_quant_type", "moe_quant_type"} & set(quantisation)
    if not method and (of_parts or isinstance(quantisation.get("quantization"), str)):
        method = "fastdeploy"
    if not method and "bits" in quantisation:
        method = "gptq" if _OF_GPTQ & set(quantisation) else "mlx"
    return _ALIASES.get(method, method)


_OF_GPTQ = {"desc_act", "sym", "damp_percent", "static_groups", "true_sequential", "checkpoint_format", "dataset"}
"""Keys of GPTQ; MLX has bits, group size and mode alone, in `quantization_config` and again in `quantization`."""


def weight_format(method: str, quantisation: Mapping[str, Any], where: str) -> Dtype:
    """The format of what `method` converts. Raises `InvalidFile` for a method or a value that is not read."""
    match method:
        case "fp8":
            return _fp8(quantisation.get("weight_block_size"))
        case "int8" | "mxfp8" | "nvfp4":
            return DTYPES[method]
        case "awq" | "gptq" | "auto-round":
            return _grouped({"zero_point": method == "awq" and "sym" not in quantisation, **quantisation}, where)
        case "mlx":
            return _mlx(quantisation, where)
        case "hqq" | "higgs":
            return _half_quadratic(quantisation, where)
        case "bitsandbytes":
            return _bitsandbytes(quantisation, where)
        case "quark":
            return _quark(quantisation.get("global_quant_config"), where)
        case "quanto":
            return _by_word("weights", quantisation.get("weights"), 128, where)
        case "torchao":
            return _torchao(quantisation, where)
        case "fp-quant":
            return _by_word("forward_dtype", quantisation.get("forward_dtype", "nvfp4"), 32, where)
        case "bitnet":  # three values, four of them packed in a byte
            return find_dtype("w2")
        case "exl":
            return _bits(quantisation.get("bits"), where)
        case "aqlm":  # codes of `in_group_size` weights each; codebooks and scales are below 1 %
            codes = whole(quantisation, ("num_codebooks",), 1, where) * whole(
                quantisation, ("nbits_per_codebook",), 16, where
            )
            coded = whole(quantisation, ("in_group_size",), 8, where) * whole(
                quantisation, ("out_group_size",), 1, where
            )
            return _bits(codes / coded if coded > 0 else None, where)
    raise InvalidFile(
        f"{where}: quant_method {method[:40]!r} is not read: take the config.json of the unquantised model, and give "
        "the format with --dtype (fp8, int8, int4-g128, mxfp4, nvfp4, or w3.5 for 3.5 bits a weight)"
    )


def _fp8(block: Any) -> Dtype:
    """fp8 with one scale a block of 128 x 128, the only one that has kernels of its own, or with fewer."""
    return DTYPES["fp8-b128" if block == [128, 128] else "fp8"]


def rest_format(method: str, quantisation: Mapping[str, Any], where: str) -> Dtype | None:
    """The format of modules without one of their own; None where these are not converted. Raises `InvalidFile`."""
    if method == "quark":
        return _quark_rest(quantisation, where)
    if method == "hqq" and _hqq_modules(quantisation):
        return None
    if method == "torchao" and _torchao_modules(quantisation):
        return _torchao_form(_torchao_modules(quantisation).get("_default"), where)
    return weight_format(method, quantisation, where)


def own_formats(method: str, quantisation: Mapping[str, Any], where: str) -> list[tuple[str, Dtype | None]]:
    """Modules with a format of their own, by pattern, the first that means a module counts; None: not converted."""
    match method:
        case "mlx":
            named = {key: item for key, item in quantisation.items() if isinstance(item, (dict, bool)) and "." in key}
            named |= {key: quantisation[key] for key in ("lm_head",) if isinstance(quantisation.get(key), (dict, bool))}
            return [
                (key, _mlx({**quantisation, **(item if isinstance(item, dict) else {})}, where) if item else None)
                for key, item in named.items()
                if item is not True
            ]
        case "gptq":  # GPTQModel: regular expressions, those with a minus are left out
            return [
                (f"re:{key.removeprefix('-:').removeprefix('+:')}", _changed(quantisation, item, key, where))
                for key, item in _mapping(quantisation, "dynamic").items()
            ]
        case "auto-round":
            return [
                (f"re:{key}" if "*" in key else key, _changed(quantisation, item, key, where))
                for key, item in _mapping(quantisation, "extra_config").items()
            ]
        case "quark":
            return [(key, _quark(item, where)) for key, item in _mapping(quantisation, "layer_quant_config").items()]
        case "hqq":
            return [(key, _half_quadratic(item, where)) for key, item in _hqq_modules(quantisation).items()]
        case "torchao":
            modules = _torchao_modules(quantisation).items()
            return [(key, _torchao_form(item, where)) for key, item in modules if key != "_default"]
    return []


def _hqq_modules(quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """HQQ by module: parameters under the names of modules."""
    stated = _mapping(quantisation, "quant_config")
    return {key: item for key, item in stated.items() if isinstance(item, dict) and not key.endswith("_params")}


def whole(document: Mapping[str, Any], keys: tuple[str, ...], default: int, where: str) -> int:
    """A whole number under the first of `keys` that is there. Raises `InvalidFile`."""
    for key in keys:
        value = document.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None:
            if type(value) is not int:
                raise InvalidFile(f"{where}: {key} = {str(value)[:40]!r} is not an integer")
            return value
    return default


def _mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _changed(quantisation: Mapping[str, Any], item: Any, key: str, where: str) -> Dtype | None:
    """The format of a module that changes some fields of the whole; 16 bits and more are not converted."""
    changes = item if isinstance(item, dict) else {}
    if key.startswith("-:") or whole(changes, ("bits",), 4, where) >= 16:
        return None
    return _grouped({**quantisation, **changes}, where)


def _grouped(quantisation: Mapping[str, Any], where: str) -> Dtype:
    """Integers in groups: GPTQ, AWQ, AutoRound; the latter has microscaled floats too."""
    bits = whole(quantisation, ("bits", "w_bit"), 4, where)
    group = _group_size(whole(quantisation, ("group_size", "q_group_size"), 128, where), where)
    kind = str(quantisation.get("data_type", "int"))
    if kind.startswith(("mx_fp", "nv_fp", "fp8", "float8")):
        form = {"mx_fp": "mxfp", "nv_fp": "nvfp"}.get(kind[:5], "fp")
        return find_dtype(f"{form}{8 if form == 'fp' else bits}", where)
    zero = quantisation.get("zero_point") or not quantisation.get("sym", True)
    return find_dtype(f"int{bits}-g{group}{'-zp' if zero else ''}", where)


def _mlx(quantisation: Mapping[str, Any], where: str) -> Dtype:
    mode = str(quantisation.get("mode", "affine"))
    bits, group = (whole(quantisation, (key,), due, where) for key, due in (("bits", 4), ("group_size", 64)))
    if mode == "affine":
        return find_dtype(f"int{bits}-g{_group_size(group, where)}-b", where)
    return find_dtype(mode, where)


def _bitsandbytes(quantisation: Mapping[str, Any], where: str) -> Dtype:
    """bitsandbytes: a 32-bit constant for 64 weights of 4 bits, unless these are quantised too (QLoRA, section 3)."""
    if quantisation.get("load_in_8bit"):
        return DTYPES["int8"]
    if quantisation.get("load_in_4bit") or quantisation.get("_load_in_4bit"):
        return DTYPES["nf4"] if quantisation.get("bnb_4bit_use_double_quant") else find_dtype("w4.5")
    raise InvalidFile(f"{where}: neither load_in_4bit nor load_in_8bit is true: give the format with --dtype")


def _half_quadratic(quantisation: Mapping[str, Any], where: str) -> Dtype:
    """HQQ (a 16-bit scale and a 16-bit zero a group), its parameters flat or nested; HIGGS has the scale alone."""
    flat = dict(quantisation)
    flat |= _mapping(_mapping(quantisation, "quant_config"), "weight_quant_params")
    flat |= _mapping(quantisation, "weight_quant_params")
    if "nbits" not in flat and "bits" not in flat:
        raise InvalidFile(f"{where}: nbits is missing, or stands by module: give the format with --dtype")
    group = _group_size(whole(flat, ("group_size",), -1, where), where)
    if "nbits" not in flat:
        return find_dtype(f"int{whole(flat, ('bits',), 4, where)}-g{group}", where)
    nested = _mapping(quantisation, "quant_config")
    meta = "-m" if nested.get("scale_quant_params") and nested.get("zero_quant_params") else ""
    return find_dtype(f"hqq{whole(flat, ('nbits',), 4, where)}-g{group}{meta}", where)


_QUARK = {
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "mxfp4": "mxfp4", "int8": "int8", "uint8": "int8", "mxfp8": "mxfp8",
    "fp6_e3m2": "w6.25", "fp6_e2m3": "w6.25",
}  # fmt: skip


def _quark(described: Any, where: str) -> Dtype:
    """AMD Quark: `weight.dtype`, with `group_size`; of stacked stages the last that is not of scales is stored."""
    weight = described.get("weight") if isinstance(described, dict) else None
    stages = [stage for stage in (weight if isinstance(weight, list) else [weight]) if isinstance(stage, dict)]
    weight = next((stage for stage in reversed(stages) if not stage.get("is_scale_quant")), {})
    name, group = str(weight.get("dtype", "")), whole(weight, ("group_size",), 0, where)
    if name in ("fp4", "fp4_e2m1"):
        return DTYPES["nvfp4" if group == 16 else "mxfp4"]
    if name in ("int4", "uint4", "int2", "uint2"):
        zero = "-zp" if name.startswith("u") else ""
        return find_dtype(f"int{name[-1]}-g{_group_size(group, where, whole=(-1, 0))}{zero}", where)
    if name not in _QUARK:
        raise InvalidFile(f"{where}: weight dtype {name[:40]!r} of quark is not read: give the format with --dtype")
    return find_dtype(_QUARK[name])


def _quark_rest(quantisation: Mapping[str, Any], where: str) -> Dtype | None:
    """Quark: what is said of linear layers goes before what is said of all."""
    by_class = {
        name.rpartition(".")[2]: item for name, item in _mapping(quantisation, "layer_type_quant_config").items()
    }
    if others := sorted(set(by_class) - {"Linear"}):
        raise InvalidFile(
            f"{where}: layer_type_quant_config: {others[0][:40]!r} is not read, Linear is: give the format with --dtype"
        )
    of_linear = by_class.get("Linear") or quantisation.get("global_quant_config")
    return _quark(of_linear, where) if of_linear else None


def _torchao_modules(quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """torchao by fully qualified names (`FqnToConfig`), patterns among them; `_default` for the others."""
    kind = _mapping(_mapping(quantisation, "quant_type"), "default")
    data = _mapping(kind, "_data")
    return _mapping(data, "fqn_to_config") or _mapping(data, "module_fqn_to_config")


def _torchao_form(item: Any, where: str) -> Dtype | None:
    return None if item is None else _torchao({"quant_type": {"default": item}}, where)


def _torchao(quantisation: Mapping[str, Any], where: str) -> Dtype:
    """torchao: a word such as int4_weight_only, or the class and the fields of a configuration."""
    kind = quantisation.get("quant_type")
    kind = kind.get("default", kind) if isinstance(kind, dict) else kind
    fields = _mapping(quantisation, "quant_type_kwargs")
    if isinstance(kind, dict):
        fields = _mapping(dict(kind), "_data")
        kind = kind.get("_type")
    group = _group_size(whole(fields, ("group_size",), 128, where), where)
    return _by_word("quant_type", kind, group, where)


def _by_word(key: str, word: Any, group: int, where: str) -> Dtype:
    """The format that a word names: of two formats, as in int8 activations with int4 weights, the narrower."""
    text = str(word).lower()
    names = {
        "nvfp4": "nvfp4", "mxfp4": "mxfp4", "int2": f"int2-g{group}-b", "int4": f"int4-g{group}-b", "mxfp8": "mxfp8",
        "int8": "int8", "float8": "fp8", "fp8": "fp8", "qfloat8": "fp8",
    }  # fmt: skip
    for part, name in names.items():
        if part in text:
            return find_dtype(name, where)
    raise InvalidFile(f"{where}: {key} = {text[:40]!r} is not read: give the format with --dtype")


def _group_size(group: int, where: str, *, whole: tuple[int, ...] = (-1,)) -> int:
    """Weights in a group; a column where the file says one of `whole`. Raises `InvalidFile` for what is no size."""
    if group in whole:
        return A_COLUMN
    if group < 1:
        raise InvalidFile(f"{where}: group_size = {group}, expected 1 or more weights, or -1 for a column")
    return group


def _bits(bits: Any, where: str) -> Dtype:
    """A stated mean of bits a weight."""
    if isinstance(bits, bool) or not isinstance(bits, (int, float)) or not 0 < bits < 8.5:
        raise InvalidFile(f"{where}: bits = {str(bits)[:40]!r}, expected above 0 and below 8.5")
    return DTYPES["int8"] if bits >= 8 else find_dtype(f"w{round(bits, 3):g}", where)


_MODELOPT = {
    "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4", "W4A16_MXFP4": "mxfp4", "W4A8_MXFP4_FP8": "mxfp4", "MXFP8": "mxfp8",
    "FP8": "fp8", "FP8_PB_WO": "fp8-b128", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_REAL": "fp8-b128",
    "FP8_BLOCK_SCALES": "fp8-b128",
    "W4A16_AWQ": "int4-g128", "W4A8_AWQ": "int4-g128", "INT4_AWQ": "int4-g128", "W8A16": "int8", "W8A8_SQ": "int8",
}  # fmt: skip
"""Algorithms of NVIDIA ModelOpt by the format of their weights."""


def named_format(name: Any, where: str) -> Dtype | None:
    """The format of weights under an algorithm of ModelOpt; None where it converts nothing. Raises `InvalidFile`."""
    if name is None or str(name).upper() in ("NONE", "NO_QUANT", "UNQUANTIZED"):
        return None
    if str(name).upper() not in _MODELOPT:
        raise InvalidFile(f"{where}: quant_algo {str(name)[:40]!r} is not read: give the format with --dtype")
    return find_dtype(_MODELOPT[str(name).upper()])


_FASTDEPLOY = {
    "wint8": "int8", "wint4": f"int4-g{A_COLUMN}", "w4a8": f"int4-g{A_COLUMN}", "w4afp8": f"int4-g{A_COLUMN}",
    "wint2": "w2", "wfp8afp8": "fp8", "block_wise_fp8": "fp8-b128", "tensor_wise_fp8": "fp8",
}  # fmt: skip


def fastdeploy_format(quantisation: Mapping[str, Any], part: str, where: str) -> Dtype | None:
    """The format that PaddlePaddle's FastDeploy gives a part, `dense` or `moe`, by its own word or that of all; None
    where it names none. Scales of two bits are not counted. Raises `InvalidFile` for a word that is not read.
    """
    of_all = quantisation.get("quantization")
    word = quantisation.get(f"{part}_quant_type", None if of_all == "mix_quant" else of_all)
    if word is not None and str(word) not in _FASTDEPLOY:
        raise InvalidFile(f"{where}: {part}_quant_type {str(word)[:40]!r} is not read: give the format with --dtype")
    return None if word is None else find_dtype(_FASTDEPLOY[str(word)])


def tensor_format(weights: Mapping[str, Any], where: str) -> Dtype:
    """The format of a group of compressed-tensors by its bits, type and group size. Raises `InvalidFile`."""
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") == "float":
        if bits == 4:
            return DTYPES["mxfp4" if group == 32 else "nvfp4"]
        if bits == 8:
            return DTYPES["mxfp8"] if group == 32 else _fp8(weights.get("block_structure"))
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
