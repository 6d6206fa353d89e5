"""A model from a folder generates after prompts, and the trace says which experts its tokens chose."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.recording.generation import BatchRows, RouterHooks, generate
from runtime.recording.prompts import Prompts, read_prompts
from runtime.recording.routers import find_routers
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import ModelArchitecture, load_architecture
from traces.model.configs.huggingface import config_in
from traces.routing import Provenance, RoutingTrace


def record(
    model: str | Path,
    prompts: str | Path,
    *,
    output_tokens: int = 64,
    batch: int = 1,
    sample: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
) -> RoutingTrace:
    """Generate with the Hugging Face model in folder `model` after each prompt of a file; the routing of all tokens.

    Weights are read from safetensors in the folder: nothing is downloaded and no code of the folder is run. `prompts`
    as of `read_prompts`; `batch` of them run side by side; `device`: "auto" (CUDA where there is one), "cpu" or
    "cuda". The trace keeps digests of configuration and prompts, never their text. Raises `InvalidFile` or
    `InvalidInput` for what cannot be read, or a model whose routers are not those of its configuration.
    """
    if find_spec("transformers") is None:
        raise InvalidInput("transformers is not installed, and recording needs it: pip install 'pregate[hf]'")
    if batch < 1 or output_tokens < 2:
        raise InvalidInput(f"batch {batch} and output tokens {output_tokens}: 1 or more, and 2 or more")
    folder = Path(model)
    architecture = load_architecture(config_in(folder))
    progress("loading the model")
    loaded = _load(folder).to(_device(device))
    asked = read_prompts(Path(prompts), _tokenizer(folder), architecture.vocab_size)
    torch.manual_seed(seed)
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:16]
    note = f"configuration {digest}; " + ("sampled, seed " + str(seed) if sample else "greedy")
    return record_model(loaded, architecture, asked, output_tokens, batch, sample=sample, note=note, progress=progress)


def record_model(
    model: Any,
    architecture: ModelArchitecture,
    prompts: Prompts,
    output_tokens: int,
    batch: int = 1,
    *,
    sample: bool = False,
    note: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> RoutingTrace:
    """As `record`, of a model of transformers that is loaded already, in evaluation mode.

    Raises `InvalidInput` where it has other routers than `architecture` has MoE layers.
    """
    import transformers

    routers = find_routers(model)
    if len(routers) != architecture.n_moe_layers:
        raise InvalidInput(
            f"{architecture.name} has {architecture.n_moe_layers} MoE layers by its configuration, and {len(routers)} "
            "routers were found: this model is built in a way that is not known"
        )
    n_without_weights = getattr(model.config.get_text_config(), "zero_expert_num", 0)
    recorder = RouterHooks(routers, architecture.n_experts, architecture.top_k, n_without_weights)
    parts: list[BatchRows] = []
    try:
        for start in range(0, len(prompts.ids), batch):
            progress(f"prompt {start + 1} of {len(prompts.ids)}")
            some = prompts.ids[start : start + batch]
            rows = generate(model, recorder, some, output_tokens, architecture.n_encoder_moe_layers, sample)
            parts.append(_after(rows, parts[-1] if parts else None, start))
    finally:
        recorder.close()
    columns = BatchRows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if n_without_weights:
        _refuse_none(columns)
    return RoutingTrace(
        **columns._asdict(),
        n_experts=architecture.n_experts,
        provenance=Provenance(
            model=architecture.name,
            source=f"{len(prompts.ids)} prompts {prompts.digest}",
            licence="not stated",
            recorder="pregate record",
            versions={"torch": str(torch.__version__), "transformers": transformers.__version__},
            note="; ".join(filter(None, (note, f"batch {batch}"))),
        ),
    )


def _refuse_none(rows: BatchRows) -> None:
    """Of a model with experts that have no weights: a token that chose only such at a layer is in no trace."""
    none = (rows.experts < 0).all(axis=2)
    if none.any():
        token, layer = np.argwhere(none)[0].tolist()
        raise InvalidInput(
            f"token {token}, MoE layer {layer}: it chose nothing but experts without weights, and a trace has a choice "
            "at each layer: record other prompts, or fewer tokens"
        )


def _after(rows: BatchRows, before: BatchRows | None, n_sequences: int) -> BatchRows:
    """Rows numbered on after those of the batch before."""
    if before is None:
        return rows
    return rows._replace(sequence=rows.sequence + np.int32(n_sequences), step=rows.step + before.step[-1] + np.int32(1))


def _load(folder: Path) -> Any:
    """The generating model of a folder. Raises `InvalidFile` where transformers cannot read it."""
    import transformers
    from transformers import AutoConfig

    transformers.logging.set_verbosity_error()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        return _kind(config).from_pretrained(folder, use_safetensors=True, dtype="auto", **local).eval()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFile(f"{folder}: transformers cannot read it ({_first_line(error)})") from error


def _kind(config: Any) -> Any:
    """What makes text by a configuration, be it a model that sees pictures as well and is shown none."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
    from transformers.models.auto import modeling_auto

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    if type(config) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    seeing = type(config) in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def _tokenizer(folder: Path) -> Callable[[str], list[int]] | None:
    """What makes ids of text; None where the folder has no tokenizer."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model")):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFile(
            f"{folder}: its tokenizer cannot be read ({str(error).strip().splitlines()[0][:200]})"
        ) from error
    return lambda text: [int(i) for i in tokenizer(text)["input_ids"]]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidInput(f"device {name!r}: auto, cpu or cuda")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InvalidInput("no CUDA device, or a PyTorch without CUDA: try --device cpu")
    return "cuda" if there and name != "cpu" else "cpu"
