"""Routing that serving engines return with an answer: `routed_experts` of vLLM and SGLang.

`vllm_completion` JSON, one answer, a list or one a line: `prompt_routed_experts` [prompt][MoE layer][k] at the top and
                  `choices[i].routed_experts` [generated - 1][layer][k] (the last token runs no gate), or one
                  `routed_experts` over prompt and answer (docs.vllm.ai v0.21, routed_experts_replay, Apache-2.0).
                  SGLang's `meta_info.routed_experts` or `sgl_ext.routed_experts`, Dynamo's in `engine_data` or
                  `nvext`: [tokens - 1][layer][k]. Lists, or packed as text (`packed_experts`)
                  A recorder's own: requests of [tokens][layer][k] under one of `REQUEST_KEYS`, their prompts apart, or
                  told by one of `PROMPT_LENGTHS`
`vllm_npz`        the same arrays saved with numpy.savez

Layers that no expert was captured for are filled with 0 or -1 by the engines (dense layers): those are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.foundation.read_only import ReadOnly
from traces.importers.beside_choices import beside_in, sequences_beside
from traces.importers.files.arrays import npz_arrays, whole_array
from traces.importers.files.text_lines import MAX_LINE_CHARACTERS, json_document, json_lines, text_lines
from traces.importers.packed_experts import first_position, unpacked
from traces.importers.recording import MAX_CELLS, ModelShape, Origin, recorded_trace, refused
from traces.importers.tables import n_experts_of, plain_keys
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, RoutingTrace
from traces.token_checks import MAX_POSITION

PROMPT_KEYS = ("prompt_routed_experts", "prefill_experts", "prompt_experts", "input_experts")
REQUEST_KEYS = (
    "routed_experts", "decode_experts", "output_experts", "generated_experts", "experts", "selected_experts",
    "expert_ids", "topk_experts", "topk_ids", "topk_indices", "routing", *PROMPT_KEYS,
)  # fmt: skip
"""What recorders call the experts of a request, token by token and layer by layer."""
PROMPT_LENGTHS = (
    "prompt_tokens", "n_prompt", "prompt_len", "prompt_length", "num_prompt_tokens", "n_prompt_tokens", "input_length",
    "input_len",
)  # fmt: skip
_ARRAYS = ("prompt_routed_experts", "routed_experts")
Part = tuple[int, Phase, NDArray[np.int64]]
"""Tokens of one phase of a sequence: where they begin, the phase, and the experts (n_tokens, n_layers, k)."""


def import_vllm_completion(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of the answers in a JSON file, a sequence a choice. Raises `InvalidFile`."""
    sequences = [parts for answer in _answers(path) for parts in _of_answer(path, answer, shape)]
    told = next((n for answer in _answers(path) if (n := n_experts_of(path, answer)) is not None), None)
    shape = shape if told is None else replace(shape, n_experts=told)
    names = [name for answer in _answers(path) if isinstance(name := answer.get("model"), str)]
    is_told = any(first or phase == Phase.PREFILL for parts in sequences for first, phase, _ in parts)
    notes = () if is_told else ("no prompt is told from answers: every token counts as decode",)
    return _trace(path, sequences, shape, names[0] if names else "not stated in the file", notes)


def import_vllm_npz(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of one answer in an npz file. Raises `InvalidFile`."""
    found = npz_arrays(path, ("routed_experts",), ("prompt_routed_experts",))
    arrays = {name: whole_array(path, name, found[name], 3) for name in _ARRAYS if name in found}
    prompt = arrays.get("prompt_routed_experts")
    parts: list[Part] = [] if prompt is None else [(0, Phase.PREFILL, prompt)]
    return _trace(
        path, [[*parts, (0 if prompt is None else len(prompt), Phase.DECODE, arrays["routed_experts"])]], shape
    )


def trace_of_tokens(
    path: Path,
    array: NDArray[np.int64],
    shape: ModelShape,
    beside: Mapping[str, Any] = ReadOnly({}),
) -> RoutingTrace:
    """The routing of experts [tokens, layers, k], in sequences and phases as the arrays `beside` it say, all of it one
    sequence of decode where they say none. Raises `InvalidFile`.
    """
    parts, is_phased = sequences_beside(path, beside, array)
    shape = shape if (n_experts := n_experts_of(path, beside)) is None else replace(shape, n_experts=n_experts)
    notes = [] if is_phased else ["phases are not recorded: every token is decode"]
    if shape.n_moe_layers is None and shape.n_layers is None:
        n_tokens, n_layers = array.shape[:2]
        notes.append(
            f"taken as {n_tokens} tokens of {n_layers} layers: the model (--model NAME) says which axis is which"
        )
    return _trace(path, parts, shape, notes=tuple(notes))


def _answers(path: Path) -> list[dict[str, Any]]:
    first = next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))[1].strip()
    many = first.startswith("{") and first.endswith("}")  # one an answer
    found = [record for _, record in json_lines(path)] if many else json_document(path)
    found = found[0] if many and len(found) == 1 else found
    if isinstance(found, dict) and not set(plain_keys(found)) & {
        "choices",
        "outputs",
        *REQUEST_KEYS,
    }:  # requests under one name
        lists = [item for item in found.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        found = lists[0] if len(lists) == 1 else found
    answers = found if isinstance(found, list) else [found]
    if not answers or not all(isinstance(answer, dict) for answer in answers):
        raise refused(path, "neither an answer nor a list of answers of vLLM or SGLang")
    return [plain_keys(answer) for answer in answers]


def _of_answer(path: Path, answer: dict[str, Any], shape: ModelShape) -> Iterator[list[Part]]:
    """The parts of each sequence of an answer, as arrays beside its choices say where there are any."""
    key = next((key for key in REQUEST_KEYS if answer.get(key) is not None), "")
    beside = beside_in(answer)
    if key and key not in PROMPT_KEYS and beside and not {"choices", "outputs"} & set(answer):
        yield from sequences_beside(path, beside, unpacked(path, key, answer[key], shape, answer))[0]
        return
    yield from _sequences(path, answer, shape)


def _sequences(path: Path, answer: dict[str, Any], shape: ModelShape) -> Iterator[list[Part]]:
    """The parts of each choice of an answer: first position, phase, experts.

    Engines return prompt and answer apart, in one array, or the answer alone; counts of tokens tell which.
    """
    prompt = next((answer[key] for key in PROMPT_KEYS if answer.get(key) is not None), None)
    read = None if prompt is None else unpacked(path, "prompt_routed_experts", prompt, shape, answer)
    choices = answer.get("choices", answer.get("outputs", [answer]))
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise refused(path, "choices is not a list of answers")
    for choice in choices:
        held = ((where, key) for key in REQUEST_KEYS for where in _places(answer, choice))
        place, key = next(((where, key) for where, key in held if where.get(key) is not None), (None, ""))
        if place is None or key in PROMPT_KEYS:
            if read is None:
                raise refused(path, "an answer has no routed_experts: ask the engine to return them")
            yield [(0, Phase.PREFILL, read)]
            continue
        whole = unpacked(path, key, place[key], shape, place)
        start = first_position(path, place[key], place)
        if read is not None:
            yield [(0, Phase.PREFILL, read), (len(read), Phase.DECODE, whole)]
        else:
            ids = next((held["prompt_token_ids"] for held in (choice, answer) if held.get("prompt_token_ids")), None)
            n_prompt = len(ids) if isinstance(ids, list) else _prompt_tokens(path, answer)
            n_new = len(choice["token_ids"]) if isinstance(choice.get("token_ids"), list) else 0
            left = n_prompt - start  # tokens of the prompt that the array may begin with
            both = left > 0 and len(whole) > left and (n_new == 0 or len(whole) >= left + n_new - 1)
            first = left if both else 0
            parts: list[Part] = [(start, Phase.PREFILL, whole[:first])] if first else []
            yield [*parts, (start + first if first else max(start, n_prompt), Phase.DECODE, whole[first:])]


def _places(answer: dict[str, Any], choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for holder in (choice, answer):
        yield holder
        for key in ("meta_info", "sgl_ext", "engine_data", "nvext"):
            if isinstance(holder.get(key), dict):
                yield holder[key]
                if isinstance(holder[key].get("engine_data"), dict):
                    yield holder[key]["engine_data"]


def _prompt_tokens(path: Path, answer: dict[str, Any]) -> int:
    """How many tokens the prompt of an answer has, 0 where it does not say. Raises `InvalidFile`."""
    for about in (answer.get("meta_info"), answer.get("usage"), answer):
        held = about if isinstance(about, dict) else {}
        key = next((key for key in PROMPT_LENGTHS if held.get(key) is not None), None)
        if key is None:
            continue
        stated = held[key][0] if isinstance(held[key], list) and len(held[key]) == 1 else held[key]
        if type(stated) is not int or stated < 0:
            raise refused(path, f"{key} {str(held[key])[:40]} is not a whole number from 0 on")
        return stated
    return 0


def _trace(
    path: Path,
    sequences: list[list[Part]],
    shape: ModelShape,
    model: str = "not stated in the file",
    notes: tuple[str, ...] = (),
) -> RoutingTrace:
    """The trace of all sequences; layers that captured nothing are left out, with a note. Raises `InvalidFile`."""
    parts = [(i, *part) for i, sequence in enumerate(sequences) for part in sequence]
    forms = {experts.shape[1:] for *_, experts in parts}
    if len(forms) != 1:
        raise refused(path, f"answers of {sorted(forms)} layers and experts a token: they are of several models")
    if sum(math.prod(experts.shape) for *_, experts in parts) > MAX_CELLS:
        raise refused(path, f"more than {MAX_CELLS} choices: split the recording")
    experts = np.concatenate([part for *_, part in parts])
    if experts.max() > MAX_EXPERTS:
        raise refused(path, f"expert {experts.max()}: ids are at most {MAX_EXPERTS}")
    last = max(first + len(part) for _, first, _, part in parts)
    if last > MAX_POSITION + 1:
        raise refused(path, f"a token at position {last - 1}: positions are at most {MAX_POSITION}")
    filled = (experts <= 0).all(axis=(0, 2)) if experts.shape[2] > 1 else (experts < 0).all(axis=(0, 2))
    if filled.all():
        raise refused(path, "every id is 0 or -1: nothing was captured")
    if filled.any():
        notes = (*notes, f"{int(filled.sum())} layers without experts left out")
    lengths = [len(part) for *_, part in parts]
    return recorded_trace(
        path,
        Origin("routed_experts of the serving engine", model, notes=notes),
        shape,
        experts=experts[:, ~filled],
        sequence=np.repeat([i for i, *_ in parts], lengths),
        position=np.concatenate([first + np.arange(len(part)) for _, first, _, part in parts]),
        phase=np.repeat([int(phase) for _, _, phase, _ in parts], lengths),
    )
