"""Which modules a quantisation converts, as far as its keys say so: what is read, and what is refused.

A key that narrows a quantisation to some modules and is passed over leaves a model of other bytes behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.quantisation.quantisation_methods import method_name

EXCLUDED = (
    "modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers", "exclude", "llm_int8_skip_modules",
    "skip_modules", "linear_weights_not_to_quantize",
)  # fmt: skip
"""Keys that list modules which are not converted."""

_SPEAKS_OF_MODULES = re.compile(
    r"(^|_)(scope|modules?|layers?|blocks?|experts?|routed|non|base|only|exclu\w+|ignor\w+|skip\w*|convert)(_|$)"
)
_READ = {
    *EXCLUDED, "modules_to_convert", "weight_block_size", "block_structure", "modules_in_block_to_quantize",
    "layer_quant_config", "layer_type_quant_config", "quantized_layers", "expert_dtype",
}  # fmt: skip
_SAYS_NOTHING = {
    "block_name_to_quantize", "to_quant_block_names", "module_name_preceding_first_block", "block_size",
    "enable_quanted_input", "layer_wise", "true_sequential", "low_gpu_mem_usage", "super_block_size",
    "static_groups", "is_skip_quant", "cache_block_outputs", "calib_block_size", "include_input_output_embeddings",
    "untie_embedding_weights", "inside_layer_modules", "model_file_base_name", "base_model", "base_model_name",
    "base_model_name_or_path", "modules_to_fuse", "weight_only", "weights_only", "quant_block_list",
}  # fmt: skip
"""Keys of recipes, of kernels, of files, or of all blocks of a language model."""


def refuse_unread_scope(quantisation: Mapping[str, Any], where: str) -> None:
    """Raise `InvalidFile` for modules that are listed in no list, or by a key that is not read."""
    for key in (*EXCLUDED, "modules_to_convert"):
        value = quantisation.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise InvalidFile(f"{where}: {key} = {str(value)[:40]!r} is not a list of modules")
    if method_name(quantisation) == "ascend":  # a word for each tensor
        return
    for key, value in quantisation.items():
        says = value is True or (isinstance(value, (str, list, dict)) and bool(value))
        known = "." in key or key in _READ or key in _SAYS_NOTHING
        if says and not known and _SPEAKS_OF_MODULES.search(key):
            raise InvalidFile(
                f"{where}: {key} may say which modules are converted, and is not read: take the config.json of the "
                "unquantised model, and give the formats with --formats, such as experts=w4"
            )
    others = [name for name in quantisation.get("modules_to_convert") or () if not _NGRAMS.search(name)]
    if others:
        raise InvalidFile(
            f"{where}: modules_to_convert: {others[0][:60]!r} is not read, tables of n-grams are: take the config.json "
            "of the unquantised model, and give the formats with --formats, such as experts=fp8"
        )


_NGRAMS = re.compile(r"n_?gram_embedding")


def converted_tables(quantisation: Mapping[str, Any]) -> bool:
    """Whether tables of n-grams are converted: one scale for a whole table (transformers' fine-grained fp8)."""
    return bool(quantisation.get("modules_to_convert"))
