"""Files that are a model itself, weights and all: which names mean one, and who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traces.errors import InvalidFile

if TYPE_CHECKING:
    from traces.model.model_architecture import ModelArchitecture


_OF_FOLDER = ("*.safetensors.index.json", "*.safetensors", "*.gguf", "config.json")
"""What stands for the model of a folder, the first of these that is there."""


def is_weights(name: str | Path) -> bool:
    """Whether a name means a file of weights, or an index of such files."""
    return str(name).lower().endswith((".gguf", ".safetensors", ".safetensors.index.json"))


def is_folder(name: str | Path) -> bool:
    """Whether a name means a folder that is there, and not a file that should be."""
    return bool(str(name)) and Path(name).suffix not in (".yaml", ".yml", ".json", ".gguf") and Path(name).is_dir()


def file_of_folder(folder: Path) -> Path:
    """The file in `folder` to read its model from. Raises `InvalidFile` where there is none."""
    for pattern in _OF_FOLDER:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("mmproj"))
        if found:
            return found[0]
    raise InvalidFile(f"{folder}: no model in this folder: neither safetensors nor GGUF files, nor a config.json")


def read_weights(path: Path) -> ModelArchitecture:
    """The architecture of the model at `path`, from the headers of its files. Raises `InvalidFile`."""
    if path.suffix.lower() == ".gguf":
        from traces.model.files.gguf_architecture import from_gguf

        return from_gguf(path)
    from traces.model.files.safetensors_architecture import from_safetensors

    return from_safetensors(path)
