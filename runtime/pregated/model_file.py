"""A trained model in one file: safetensors, its architecture, lookahead and tokenizer in the header."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runtime.pregated.corpus.tokens import Tokenizer
from runtime.pregated.model_header import FORM, model_header
from runtime.pregated.transformer import MoeTransformer
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.model.architecture import parse_architecture


def save_model(model: MoeTransformer, tokenizer: Tokenizer, path: Path) -> None:
    """Write `model` to `path`, whole or not at all. Raises `InvalidFile` where it cannot be written."""
    header = {
        "form": FORM,
        "architecture": model.architecture.to_yaml(),
        "lookahead": str(model.lookahead),
        "merges": json.dumps(tokenizer.merges),
    }
    try:
        with whole_file(path) as unfinished:
            save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, unfinished, header)
    except SafetensorError as error:
        raise InvalidFile(f"{path}: the model cannot be written ({str(error).splitlines()[0]})") from error


def load_trained(path: Path) -> tuple[MoeTransformer, Tokenizer]:
    """The model of `save_model` in `path`. Raises `InvalidFile` for anything else."""
    header = model_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InvalidFile(f"{path}: no safetensors file ({error})") from error
    try:
        tokenizer = Tokenizer(tuple((int(left), int(right)) for left, right in json.loads(header["merges"])))
        model = MoeTransformer(parse_architecture(header["architecture"], str(path)), int(header["lookahead"]))
        model.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, InvalidInput) as error:
        raise InvalidFile(f"{path}: the header and the tensors are not of one model ({error})") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise InvalidFile(f"{path}: holds weights that are not finite")
    return model.eval(), tokenizer
