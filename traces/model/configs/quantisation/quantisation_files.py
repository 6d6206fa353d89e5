"""Where a checkpoint describes its quantisation: a key of its configuration, or a file beside it.

Under `quantization_config` (transformers) or `quantization` (MLX); in `hf_quant_config.json` (NVIDIA ModelOpt), or in
`quantize_config.json` or `quant_config.json` (older GPTQ, AWQ), or `quant_model_description*.json` (ModelSlim).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile
from traces.foundation.documents import read_text

MAX_SIDE_FILE_BYTES = 16 << 20
_SIDE_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")


_OF_A_METHOD = ("bits", "w_bit", "quant_algo", "config_groups", "load_in_4bit", "load_in_8bit", "weight_block_size")
_UNREAD = ("openvino_config.json", "qmodel.pt", "mlc-chat-config.json", "jang_config.json")
"""Files of OpenVINO, older HQQ, MLC and JANG: weights beside them are quantised, whatever the configuration says."""

_NOT_READ = (
    "says how the weights are quantised, which is not read: take the config.json of the unquantised model, and give "
    "the format with --dtype or --formats"
)


def find_quantisation(
    config: Mapping[str, Any], shapes: Mapping[str, Any], folder: Path, where: str
) -> tuple[dict[str, Any] | None, str]:
    """The description of the quantisation, and where it stood; a side file counts where the configuration has none.

    Raises `InvalidFile` for a file that is unsound, or of a kind that is not read.
    """
    for document in (config, shapes):
        named = document.get("weight_format")  # JANG
        if isinstance(named, str) and named:
            raise InvalidFile(f"{where}: weight_format {named[:40]!r} {_NOT_READ}")
        for key in ("quantization_config", "compression_config", "quantization"):
            found = document.get(key)
            if found is not None and not isinstance(found, dict):
                raise InvalidFile(f"{where}: {key} is not a mapping")
            if found and found.get("quant_method", "") is None:
                said = next((name for name in _OF_A_METHOD if found.get(name)), None)
                if said:
                    raise InvalidFile(f"{where}: {key}: {said} is stated, but quant_method is null: state the method")
            elif found:
                inner = found.get("quantization")  # as in a side file (ModelOpt)
                found = {**found, **inner} if isinstance(inner, dict) else found
                return dict(found, **({"quant_method": "mlx"} if key == "quantization" else {})), key
    described = sorted(path.name for path in folder.glob("quant_model_description*.json"))[:1]
    for name in (*_SIDE_FILES, *described):
        path = folder / name
        if path.exists():
            try:
                data = json.loads(read_text(path, MAX_SIDE_FILE_BYTES))
            except (ValueError, RecursionError) as error:
                raise InvalidFile(
                    f"{path}: not valid JSON ({type(error).__name__}): complete it, or move it away"
                ) from None
            if isinstance(data, dict) and data:
                inner = data.get("quantization", data)
                if not isinstance(inner, dict):
                    raise InvalidFile(f"{path}: quantization is not a mapping")
                method = "modelopt" if name == "hf_quant_config.json" else "awq" if "w_bit" in data else "gptq"
                return {"quant_method": "ascend" if name in described else method, **inner}, name
    for name in _UNREAD:
        if (folder / name).is_file():
            raise InvalidFile(f"{where}: {name} beside it {_NOT_READ}")
    return None, ""
