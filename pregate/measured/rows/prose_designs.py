"""Designs told in whole phrases, as people note down what ran: layers by number, caches, flags and what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pregate.measured.rows.placement_words import ON_HOST, placement_in_words
from pregate.spellings.models import shipped_architecture
from pregate.spellings.names import our_name
from traces.model.model_architecture import ModelArchitecture

_FFNS = r"(?:(?:all )?(?:routed )?(?:moe )?(?:experts?|ffns?|feed[- ]forwards?)(?: weights)?)"
_CARD = r"(?:on|in|to) (?:the |one |two |both |all |\d )?(?:gpu|card|vram|accelerator)s?"
_REST = rf"[,;]? (?:and )?(?:(?:the )?(?:rest|others)|(?:the |all )?other experts) {ON_HOST}"
_OF = r"(?: (?:of|out of) (?:the )?\d{1,4})?"
_A_LAYER = r"(?:a|per|each|in each) layer"
_MISSES = rf"(?: \([^()]*\))?,? misses {ON_HOST}"


def _from_layer(said: re.Match[str], _: ModelArchitecture | None) -> str:
    return f"experts=cpu:{said['first']}-{said['last'] or ''}"


def _last_layers(said: re.Match[str], _: ModelArchitecture | None) -> str:
    n, of = int(said["n"]), int(said["of"])
    return f"experts=cpu:{of - n}-{of - 1}" if 0 < n <= of else ""


def _behind_layers(said: re.Match[str], model: ModelArchitecture | None) -> str:
    """Experts of the first layers on the card: from its first that has any to the one that is named."""
    if said["n"]:
        return f"experts=cpu:{said['n']}-"
    moe_layers = () if model is None or model.encoder is not None else model.decoder.moe_layers
    first = moe_layers[0] if moe_layers else 0
    return f"experts=cpu:{int(said['last']) + 1}-" if int(said["first"]) <= first else ""


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], ModelArchitecture | None], str]], ...] = (
    (
        re.compile(
            rf"{_FFNS} of layers (?P<first>\d{{1,3}})(?:\+| and (?:up|above|later|beyond|higher)| on(?:wards?)?"
            rf"| ?(?:-|to) ?(?P<last>\d{{1,3}})) {ON_HOST}"
        ),
        _from_layer,
    ),
    (
        re.compile(rf"{_FFNS} of the last (?P<n>\d{{1,3}}) (?:of|out of) (?:the )?(?P<of>\d{{1,3}}) layers {ON_HOST}"),
        _last_layers,
    ),
    (
        re.compile(
            rf"{_FFNS} of (?:layers (?P<first>\d{{1,3}}) ?(?:-|to) ?(?P<last>\d{{1,3}})"
            rf"|(?:the first )?(?P<n>\d{{1,3}}) layers) {_CARD}{_REST}"
        ),
        _behind_layers,
    ),
    (
        re.compile(rf"(?P<n>\d{{1,4}}){_OF} experts {_A_LAYER} {_CARD}{_REST}"),
        lambda said, _: f"experts=cpu:keep={said['n']}:uniform" if int(said["n"]) else "experts=cpu",
    ),
    (
        re.compile(
            rf"(?:profile[- ]pinned|pinned|static|hot|hottest|popular) (?:expert )?cache of (?P<n>\d{{1,4}}){_OF}"
            rf" experts {_A_LAYER}{_MISSES}"
        ),
        lambda said, _: f"experts=cpu:keep={said['n']}",
    ),
    (
        re.compile(
            rf"(?P<evicts>lru|lfu) (?:expert )?cache of (?P<n>\d{{1,4}}){_OF} (?:slots|experts) {_A_LAYER}{_MISSES}"
        ),
        lambda said, _: f"on_demand:cpu+{said['evicts']}:{said['n']}:per_layer",
    ),
)  # fmt: skip

_FLAGS = (
    r"(?P<flags>(?:-ot|--override-tensor)[ =]\S*?exps\S*?=CPU|--?cpu-moe|-cmoe|"
    r"(?:--?n-?cpu-?moe|-ncmoe)[ =](?P<n>\d{1,3}))"
)
_BEHIND_FLAGS = re.compile(
    rf"{_FLAGS}(?: of \d{{1,3}})?(?:[,:] (?:(?P<streams>weights streamed to the gpu for prefill)"
    r"|(?P<never>prefill experts on the cpu(?: \(--no-op-offload\))?)|1 gpu|one gpu))?",
    re.IGNORECASE,
)
_FITS = re.compile(
    r"(?:v?\d+(?:\.\d+)+|b\d{4,5})?\s*(?:cuda|hip|rocm|metal)?\s*--?fit(?:[ =]on)?(?:, experts on the cpu)?",
    re.IGNORECASE,
)
_TOP_K = re.compile(r"(?P<k>\d{1,3}) experts, (?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_COMPUTE = re.compile(r",? (?:amx|avx-?512|avx2)(?: (?:int4|int8|bf16))?$", re.IGNORECASE)
"""What the host's processor multiplies with, which a format says already."""


def with_prose_design(cells: Mapping[str, str]) -> dict[str, str]:
    """A row whose policy is such a phrase, with the design that it says; how many experts a token takes, where that
    stands before, beside the name of the model. `cells` as typed: what no rule knows stays as it is.
    """
    row, policy = dict(cells), cells.get("policy", "").strip()
    if not policy or row.get("placement"):
        return row
    model = shipped_architecture(row.get("model", ""))
    top_k = _TOP_K.fullmatch(policy)
    if top_k is not None and model is not None and 0 < int(top_k["k"]) <= model.n_experts:
        policy = _COMPUTE.sub("", top_k["rest"])
        if int(top_k["k"]) != model.top_k and "?" not in row["model"]:
            row["model"] = f"{our_name('model', row['model'])}?top_k={top_k['k']}"
        row["policy"] = policy
        if placement_in_words(policy) != policy:
            row["policy"], row["placement"] = "gpu_only", placement_in_words(policy)
    plain = re.sub(r"\s+", " ", policy.lower())
    for form, design in _FORMS:
        said = form.fullmatch(plain)
        if said is not None:
            told = design(said, model)
            if told.startswith("experts="):
                row["policy"], row["placement"] = "gpu_only", told
            return row | {"policy": told} if told.startswith("on_demand") else row
    behind = _BEHIND_FLAGS.fullmatch(policy)
    if behind is not None:
        row["policy"] = behind["flags"]
        prompts = "stream=never" if behind["never"] else "stream=32" if behind["streams"] else ""
        if prompts:
            layers = f":{behind['n']}" if behind["n"] else ""
            row |= {"policy": "gpu_only", "placement": f"experts=cpu{layers}@{prompts}"}
    elif _FITS.fullmatch(policy):
        row["policy"] = "-fit on"
    return row
