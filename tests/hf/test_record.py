"""Recording of routing, on tiny models of each type with random weights, built here: nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from tests.command_line import Run
from tests.grids import some_of
from tests.hf.transformers_configs import MODELS, MORE, QWEN, SMALL
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import load_architecture
from traces.phase import Phase
from traces.routing import RoutingTrace

torch = pytest.importorskip("torch", reason="models run with PyTorch (the extra 'runtime')")
transformers = pytest.importorskip("transformers", reason="models are those of transformers (the extra 'hf')")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402

from runtime.recording.prompts import read_prompts  # noqa: E402
from runtime.recording.routers import choice_of, find_routers  # noqa: E402

ANSWER_OTHERWISE = (
    "deepseek_v4", "hunyuan_v1_moe", "jamba", "jetmoe", "lfm2_moe", "llama4_text", "minimax", "nemotron_h", "zaya",
)  # fmt: skip
"""Types beyond `MODELS` whose routers are found, or answer, in a way of their own."""
TRANSLATORS = ("switch_transformers", "nllb-moe")
PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17]]
N_OUTPUT = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model, made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, model_type: str) -> Path:
            self[model_type] = folder = tmp_path_factory.mktemp(model_type)
            config = CONFIG_MAPPING[model_type](**(MODELS | MORE)[model_type])
            torch.manual_seed(0)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model = kind.from_config(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.4)
            for name, table in model.named_buffers():
                if name.endswith("tid2eid"):  # experts by token, which a new model has none of
                    table.copy_(torch.arange(table.numel()).view_as(table) % 8)
            model.generation_config.eos_token_id = 999  # never: all sequences run to the end
            model.save_pretrained(folder)
            (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"ids": ids}) for ids in PROMPTS))
            return folder

    return Made()


def recorded(folder: Path, **settings: Any) -> RoutingTrace:
    return pregate.record(folder, folder / "prompts.jsonl", output_tokens=N_OUTPUT, device="cpu", **settings)


@cache
def one_by_one(folder: Path) -> RoutingTrace:
    """The trace of the prompts one after the other, which several tests look at."""
    return recorded(folder)


def loaded(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval()


def of_sequence(trace: RoutingTrace, sequence: int, phase: Phase | None = None) -> Any:
    mine = trace.sequence == sequence
    return mine if phase is None else mine & (trace.phase == phase)


@pytest.mark.parametrize("model_type", some_of([*MODELS, *MORE], {*MODELS, *ANSWER_OTHERWISE}))
def test_the_trace_is_one_of_the_model_and_has_every_token(folders: dict[str, Path], model_type: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    trace = one_by_one(folders[model_type])
    architecture = load_architecture(folders[model_type] / "config.json")
    trace.check_model(architecture)
    n_decoded = N_OUTPUT if architecture.encoder is not None else N_OUTPUT - 1
    for sequence, ids in enumerate(PROMPTS):
        assert of_sequence(trace, sequence, Phase.PREFILL).sum() == len(ids)
        assert of_sequence(trace, sequence, Phase.DECODE).sum() == n_decoded
    assert trace.gate_weights is not None
    assert np.isfinite(trace.gate_weights).all()
    assert trace.gate_weights[trace.experts >= 0].max() > 0


@pytest.mark.parametrize("model_type", [name for name in MODELS if name not in TRANSLATORS])
def test_one_forward_pass_over_all_tokens_chooses_the_same(folders: dict[str, Path], model_type: str) -> None:
    """Without a cache, a batch or padding: what each router's own hook sees."""
    trace, model = one_by_one(folders[model_type]), loaded(folders[model_type])
    for sequence, ids in enumerate(PROMPTS):
        with torch.inference_mode():
            out = model.generate(torch.tensor([ids]), max_new_tokens=N_OUTPUT, do_sample=False, pad_token_id=0)
            seen: list[Any] = []
            hooks = [
                router.register_forward_hook(lambda module, given, answer, seen=seen: seen.append(answer))
                for _, router in find_routers(model)
            ]
            model(out[:, :-1])
        for hook in hooks:
            hook.remove()
        chosen = np.stack([choice_of(answer, trace.n_experts, trace.top_k).experts.numpy() for answer in seen], axis=1)
        mine = trace.experts[of_sequence(trace, sequence)]
        assert np.array_equal(np.sort(chosen, axis=2), np.sort(mine, axis=2))


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "olmoe"])
def test_choices_are_the_largest_logits_that_the_model_itself_gives_out(
    folders: dict[str, Path], model_type: str
) -> None:
    trace, model = one_by_one(folders[model_type]), loaded(folders[model_type])
    ids = PROMPTS[0]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    best = np.stack([layer.topk(trace.top_k, dim=-1).indices.numpy() for layer in logits], axis=1)
    mine = trace.experts[of_sequence(trace, 0, Phase.PREFILL)]
    assert np.array_equal(np.sort(best, axis=2), np.sort(mine, axis=2))
    weights = np.stack([layer.softmax(dim=-1).topk(trace.top_k, dim=-1).values.numpy() for layer in logits], axis=1)
    assert trace.gate_weights is not None
    own = trace.gate_weights[of_sequence(trace, 0, Phase.PREFILL)]
    shares = [np.sort(part / part.sum(axis=2, keepdims=True), axis=2) for part in (weights, own)]
    assert np.allclose(shares[0], shares[1], atol=1e-5)


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3", "gpt_oss", "switch_transformers"])
def test_a_batch_chooses_what_each_prompt_chooses_alone(folders: dict[str, Path], model_type: str) -> None:
    alone, together = one_by_one(folders[model_type]), recorded(folders[model_type], batch=3)
    assert len(np.unique(together.step)) * 3 == len(np.unique(alone.step))
    for sequence in range(len(PROMPTS)):
        for name in ("position", "phase"):
            assert np.array_equal(
                getattr(alone, name)[of_sequence(alone, sequence)],
                getattr(together, name)[of_sequence(together, sequence)],
            )
        one, other = alone.experts[of_sequence(alone, sequence)], together.experts[of_sequence(together, sequence)]
        assert np.array_equal(np.sort(one, axis=2), np.sort(other, axis=2))


def test_tokens_after_the_end_of_a_sequence_are_left_out(folders: dict[str, Path]) -> None:
    folder = folders["olmoe"]
    model = loaded(folder)
    with torch.inference_mode():
        out = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=N_OUTPUT, do_sample=False, pad_token_id=0)
    end = int(out[0, len(PROMPTS[0]) + 1])  # the second token made
    stops = 2 if int(out[0, len(PROMPTS[0])]) != end else 1
    settings = json.loads((folder / "generation_config.json").read_text())
    try:
        (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": end}))
        trace = recorded(folder, batch=3)
    finally:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    assert of_sequence(trace, 0, Phase.DECODE).sum() == stops - 1
    assert of_sequence(trace, 1).sum() > len(PROMPTS[1])


def test_a_recorded_trace_predicts_and_never_holds_the_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    trace = recorded(folders["mixtral"], batch=3)
    model = load_architecture(folders["mixtral"] / "config.json")
    result = pregate.simulate(model, pregate.load_hardware("t4"), trace, "pregate")
    assert result.tpot_s > 0
    assert result.routing == "recorded"
    origin = trace.provenance
    assert origin.versions["transformers"] == transformers.__version__
    assert "configuration" in origin.note
    assert "greedy" in origin.note
    assert str(PROMPTS[0][1:4])[1:-1] not in repr(origin)


def test_dropped_tokens_have_the_expert_that_they_asked_for() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.0]])
    mask = torch.tensor([[0, 1, 0], [0, 0, 0]])  # the second was beyond its expert's capacity
    choice = choice_of((mask, logits.softmax(-1).amax(-1, keepdim=True), logits), 3, 1)
    assert choice.experts.tolist() == [[1], [1]]
    assert choice.weights.flatten().tolist() == pytest.approx(logits.softmax(-1).amax(-1).tolist())


def test_an_answer_of_an_unknown_form_is_refused() -> None:
    with pytest.raises(InvalidInput, match="neither 2 ids a token nor logits of 8 experts"):
        choice_of(torch.zeros(3, 5), 8, 2)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.jsonl", '{"ids": [1, 64]}', "token 64 is none of the 64"),
        ("p.jsonl", '{"ids": [1, true]}', "token True"),
        ("p.jsonl", '{"ids": []}', "0 tokens"),
        ("p.jsonl", '{"text": "hello"}', "prompt .text. or ids"),
        ("p.jsonl", "[1, 2]", "prompt .text. or ids"),
        ("p.jsonl", "{", "not JSON"),
        ("p.txt", "hello", "no tokenizer"),
        ("p.txt", "\n\n", "no prompt"),
    ],
)
def test_prompts_that_are_none_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidFile, match=said):
        read_prompts(tmp_path / name, None, 64)


def test_text_is_tokenized_and_named_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("ab\n\nc\n")
    found = read_prompts(tmp_path / "p.txt", lambda text: [ord(letter) - 90 for letter in text], 64)
    assert found.ids == ((7, 8), (9,))
    assert len(found.digest) == 16


def test_the_command_records_and_refuses(folders: dict[str, Path], run: Run, tmp_path: Path) -> None:
    folder = folders["mixtral"]
    target = tmp_path / "t.safetensors"
    words = ("--prompts", str(folder / "prompts.jsonl"), "--output-tokens", "3", "--device", "cpu")
    status, _, err = run("record", "--model", str(folder), *words, "-o", str(target))
    assert status == 0, err
    assert pregate.load_trace(target).n_tokens == sum(map(len, PROMPTS)) + 2 * len(PROMPTS)
    for bad, said in (
        (("--model", str(tmp_path)), "no config.json"),
        (("--model", str(folder), "--batch", "0"), "--batch 0: give 1 or more"),
        (("--model", str(folder), "--device", "tpu"), "tpu"),
    ):
        given = [word for word in words if bad[-1] != "tpu" or word not in ("--device", "cpu")]
        status, out, err = run("record", *bad, *given, "-o", str(tmp_path / "u.safetensors"))
        assert (status, out) == (2, "")
        assert said in err
        assert not (tmp_path / "u.safetensors").exists()


def test_a_folder_without_weights_is_refused_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["mixtral"] / "config.json").read_bytes())
    (tmp_path / "prompts.jsonl").write_text('{"ids": [3]}')
    with pytest.raises(InvalidFile, match="transformers cannot read it") as caught:
        recorded(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_pictures_is_recorded_on_text(tmp_path: Path) -> None:
    text = SMALL | QWEN | {"model_type": "qwen3_vl_moe_text"}
    seen = {"hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
    config = CONFIG_MAPPING["qwen3_vl_moe"](text_config=text, vision_config=seen | {"deepstack_visual_indexes": [0]})
    model = transformers.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"ids": PROMPTS[0]}))
    trace = recorded(tmp_path)
    trace.check_model(load_architecture(tmp_path / "config.json"))
    assert trace.n_tokens == len(PROMPTS[0]) + N_OUTPUT - 1
