"""Model architectures by name or from a file: the door to this room.

The shipped ones are `traces/model/architectures/*.yaml`; a new model is one more file there.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section, parse_yaml, read_text
from traces.foundation.yaml_names import yaml_names
from traces.model.attention import Attention
from traces.model.dtypes import DTYPES, Dtype, find_dtype
from traces.model.files.weights_files import file_of_folder, is_folder, is_weights, read_weights
from traces.model.layer_formats import BY_LAYER, LayerFormats
from traces.model.layer_stack import LayerStack, every_layer
from traces.model.linear_mixer import LINEAR_KINDS, LinearMixer
from traces.model.model_architecture import ModelArchitecture
from traces.model.published_counts import PublishedCount, PublishedCounts
from traces.model.same_models import SAME_AS, TRAINED_CONTEXTS

__all__ = [
    "DTYPES",
    "Attention",
    "Dtype",
    "LayerStack",
    "LinearMixer",
    "ModelArchitecture",
    "PublishedCount",
    "PublishedCounts",
    "architecture_names",
    "load_architecture",
    "parse_architecture",
]

_SHIPPED = Path(__file__).parent / "architectures"
MAX_ARCHITECTURE_BYTES = 1 << 18
"""Largest architecture file read (256 KiB): the largest of ours is under 3 KiB."""


def architecture_names() -> tuple[str, ...]:
    """Names of the shipped architectures, sorted."""
    return yaml_names(_SHIPPED)


def load_architecture(name_or_path: str | Path) -> ModelArchitecture:
    """The architecture of that name, of a model that has it (`SAME_AS`), or in that file: `.yaml` and `.yml` are
    ours, `.json` is Hugging Face's, `.gguf` and `.safetensors` the model itself; of a folder the model in it.

    Raises `UnknownName` for a name that is not shipped, `InvalidFile` or `InvalidInput` for a bad file.
    """
    path = Path(name_or_path)
    if is_folder(name_or_path) and str(name_or_path) not in architecture_names():
        path = file_of_folder(path)
    if is_weights(path):
        return read_weights(path)
    if path.suffix == ".json":
        from traces.model.configs.huggingface import from_huggingface_config  # every layout of every maker: on use

        return from_huggingface_config(path)
    if path.suffix not in (".yaml", ".yml"):
        return _shipped_architecture(str(name_or_path))
    return _read(path)


@lru_cache(maxsize=128)
def _shipped_architecture(name: str) -> ModelArchitecture:
    """The shipped architecture of that name, or of a model that has it, read once. Raises `UnknownName`.

    A model that was trained otherwise may go to another context, which is its own or unknown.
    """
    if name in SAME_AS:
        return dataclasses.replace(_shipped_architecture(SAME_AS[name]), trained_context=TRAINED_CONTEXTS.get(name, 0))
    if name not in architecture_names():
        raise unknown_name("model", name, (*architecture_names(), *SAME_AS))
    return _read(_SHIPPED / f"{name}.yaml")


def _read(path: Path) -> ModelArchitecture:
    return parse_architecture(read_text(path, MAX_ARCHITECTURE_BYTES), str(path))


def parse_architecture(text: str, where: str) -> ModelArchitecture:
    """The architecture in YAML `text`. Raises `InvalidFile` or `InvalidInput` naming `where`."""
    section = parse_yaml(text, where)
    try:
        return _read_architecture(section)
    except (InvalidFile, InvalidInput) as error:
        if where in str(error):
            raise
        raise InvalidFile(f"{where}: {error}") from error


def _read_architecture(section: Section) -> ModelArchitecture:
    encoder = section.optional_section("encoder")
    published = section.optional_section("published")
    architecture = ModelArchitecture(
        name=section.name("name"),
        d_model=section.integer("d_model"),
        vocab_size=section.integer("vocab_size"),
        tied_embeddings=_required_flag(section, "tied_embeddings"),
        encoder=None if encoder is None else _read_stack(encoder),
        decoder=_read_stack(section.section("decoder")),
        n_experts=section.integer("n_experts"),
        top_k=section.integer("top_k"),
        d_ff_expert=section.integer("d_ff_expert"),
        n_expert_matrices=section.integer("n_expert_matrices"),
        n_shared_experts=section.integer("n_shared_experts", 0),
        d_ff_shared=section.integer("d_ff_shared", 0),
        shared_expert_gate=section.flag("shared_expert_gate"),
        expert_bias=section.flag("expert_bias"),
        gate_bias=section.flag("gate_bias"),
        head_bias=section.flag("head_bias"),
        norm_bias=section.flag("norm_bias"),
        dtype=find_dtype(section.text("dtype"), section.where),
        expert_dtype=find_dtype(section.text("expert_dtype"), section.where),
        **_formats(section),
        layer_formats=_read_layer_formats(section),
        other_params=section.integer("other_params", 0),
        table_params=section.integer("table_params", 0),
        d_expert=section.integer("d_expert", 0),
        trained_context=section.integer("trained_context", 0),
        pregated_from=section.integer("pregated_from", 0),
        n_free_experts=section.integer("n_free_experts", 0),
        published=PublishedCounts() if published is None else _read_published(published),
        sources=_read_sources(section),
        note=section.text("note", ""),
    )
    section.done()
    return architecture


def _formats(section: Section) -> dict[str, Dtype | None]:
    """The formats that a model may leave out."""
    parts = ("activation", "attention", "shared", "kv", "embedding", "head", "gate", "table")
    names = {f"{part}_dtype": section.text(f"{part}_dtype", "") for part in parts}
    return {key: find_dtype(name, section.where) if name else None for key, name in names.items()}


def _read_layer_formats(section: Section) -> LayerFormats | None:
    """The formats of parts that differ from layer to layer."""
    own = section.optional_section("layer_formats")
    if own is None:
        return None
    names = {part: own.items(part, optional=True) for part in BY_LAYER}
    own.done()
    return LayerFormats(**{part: tuple(find_dtype(str(name), own.where) for name in of) for part, of in names.items()})


def _required_flag(section: Section, key: str) -> bool:
    if key not in section:
        section.take(key)
    return section.flag(key)


def _read_sources(section: Section) -> tuple[str, ...]:
    sources = section.items("sources")
    if not sources or not all(isinstance(source, str) for source in sources):
        raise InvalidFile(f"{section.where}: sources must name at least one text: where do the shapes come from?")
    return tuple(sources)


def _read_stack(section: Section) -> LayerStack:
    n_layers = section.integer("n_layers")
    stack = LayerStack(
        n_layers=n_layers,
        moe_layers=_read_moe_layers(section, n_layers),
        attention=_read_attention(section.section("attention")),
        cross_attention=section.flag("cross_attention"),
        d_ff_dense=section.integer("d_ff_dense"),
        n_dense_matrices=section.integer("n_dense_matrices"),
        ffn_bias=section.flag("ffn_bias"),
        relative_position_buckets=section.integer("relative_position_buckets", 0),
        mixers=tuple(_read_mixer(item, section.where) for item in section.items("mixers", optional=True)),
        mixer_of=_integers(section, "mixer_of"),
        bare_layers=_integers(section, "bare_layers"),
    )
    section.done()
    return stack


def _read_moe_layers(section: Section, n_layers: int) -> tuple[int, ...]:
    """Either a list of indices or `{first, step}`."""
    value = section.take("moe_layers")
    if isinstance(value, list):
        if not all(type(layer) is int for layer in value):
            raise InvalidFile(f"{section.where}: moe_layers holds something that is not an integer")
        return tuple(value)
    if not isinstance(value, dict):
        raise InvalidFile(f"{section.where}: moe_layers is neither a list nor a mapping of first and step")
    regular = Section(value, f"{section.where}: moe_layers")
    layers = every_layer(n_layers, regular.integer("first"), regular.integer("step", minimum=1))
    regular.done()
    return layers


def _integers(section: Section, key: str) -> tuple[int, ...]:
    """A list of integers; empty when absent."""
    values = section.items(key, optional=True)
    if not all(type(value) is int for value in values):
        raise InvalidFile(f"{section.where}: {key} holds something that is not an integer")
    return tuple(values)


def _read_mixer(item: object, where: str) -> Attention | LinearMixer:
    """What mixes tokens in some layers: an attention, or a mixer with a state of fixed size."""
    if not isinstance(item, dict):
        raise InvalidFile(f"{where}: mixers holds something that is not a mapping")
    section = Section(item, f"{where}: mixers")
    if item.get("kind") not in LINEAR_KINDS:
        return _read_attention(section)
    shapes = section.items("gemms")
    if not all(isinstance(shape, list) and all(type(n) is int for n in shape) for shape in shapes):
        raise InvalidFile(f"{section.where}: gemms are pairs of integers (n_out, k_in)")
    mixer = LinearMixer(
        kind=section.text("kind"),
        gemms=tuple((shape[0], shape[1]) if len(shape) == 2 else (0, 0) for shape in shapes),
        vectors=section.integer("vectors"),
        state_elements=section.integer("state_elements"),
        flop_per_token=section.integer("flop_per_token"),
    )
    section.done()
    return mixer


def _read_attention(section: Section) -> Attention:
    attention = Attention(
        kind=section.text("kind"),
        n_heads=section.integer("n_heads"),
        n_kv_heads=section.integer("n_kv_heads"),
        head_dim=section.integer("head_dim"),
        q_lora_rank=section.integer("q_lora_rank", 0),
        kv_lora_rank=section.integer("kv_lora_rank", 0),
        qk_nope_dim=section.integer("qk_nope_dim", 0),
        qk_rope_dim=section.integer("qk_rope_dim", 0),
        v_head_dim=section.integer("v_head_dim", 0),
        qkv_bias=section.flag("qkv_bias"),
        output_bias=section.flag("output_bias"),
        qk_norm=section.text("qk_norm", "none"),
        sinks=section.flag("sinks"),
        window=section.integer("window", 0),
        output_gate=section.integer("output_gate", 0),
        shared_key_value=section.flag("shared_key_value"),
        index_heads=section.integer("index_heads", 0),
        index_dim=section.integer("index_dim", 0),
        index_topk=section.integer("index_topk", 0),
        compression=section.integer("compression", 0),
        output_groups=section.integer("output_groups", 0),
        output_rank=section.integer("output_rank", 0),
        entries=section.text("entries", "overlapping"),
    )
    section.done()
    return attention


def _read_published(section: Section) -> PublishedCounts:
    total = section.optional_section("total_params")
    active = section.optional_section("active_params")
    section.done()
    return PublishedCounts(
        total_params=None if total is None else _read_count(total),
        active_params=None if active is None else _read_count(active),
    )


def _read_count(section: Section) -> PublishedCount:
    count = PublishedCount(
        value=section.number("value"),
        source=section.text("source"),
        rounding=section.number("rounding", 0.0),
        counts_input_embedding=section.flag("counts_input_embedding", True),
        note=section.text("note", ""),
    )
    section.done()
    return count
