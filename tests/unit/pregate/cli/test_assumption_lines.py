"""Lines beside a card about what nobody said: once, on standard error, and only where it was left out."""

from __future__ import annotations

from tests.command_line import Run

SHORT = ("--input-tokens", "8", "--output-tokens", "4")


def test_formats_that_nobody_said_are_told_where_they_do_not_fit(run: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", "--hardware", "rtx-4090", "--stack", "llama-cpp", *SHORT)
    status, out, err = run(*asked)
    assert status == 0
    assert "note: weights are as published, 61.1 GB in bf16, and do not all fit in HBM: --formats" in err
    assert "note:" not in out
    for said in (("--formats", "q4_k_m"), ("--dtype", "fp8"), ("--hbm", "80GB")):
        assert "as published" not in run(*asked, *said)[2]


def test_cards_that_take_turns_are_told_how_they_share(run: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", *SHORT, "--hardware", "2x h100-sxm")
    note = "note: the cards of 2x h100-sxm take layers in turn, as under llama.cpp; --stack vllm has them share"
    assert note in run(*asked)[2]
    _, out, err = run(*asked[:-1], "h100-sxm,2x h100-sxm")
    assert note in err
    assert out.rstrip().endswith(("--hardware '2x h100-sxm'", "--hardware h100-sxm"))
    for said in (("--stack", "llama-cpp"), ("--formats", "q4_k_m")):
        assert "in turn" not in run(*asked, *said)[2]


def test_an_engine_that_another_stands_for_is_told(run: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", "--hardware", "h100-sxm", *SHORT, "--stack")
    assert "note: SGLang is predicted as vllm, whose constants and flags stand here" in run(*asked, "SGLang")[2]
    assert "note:" not in run(*asked, "vLLM")[2]


def test_an_engine_that_does_not_run_on_the_card_is_told(run: Run) -> None:
    asked = ("plan", "qwen3-30b-a3b", "--formats", "q4_k_m", *SHORT, "--stack", "ktransformers", "--hardware")
    note = "on cards of compute capability 8 and later, rtx-2080-ti has 7.5: another --stack, such as llama-cpp"
    assert note in run(*asked, "rtx-2080-ti")[2]
    assert "capability" not in run(*asked, "rtx-3090")[2]


def test_a_bare_fp8_is_told_what_it_was_taken_as(run: Run) -> None:
    note = "note: fp8 is taken as one scale a tensor; what makers store in blocks is fp8-b128, which vllm computes"
    where = ("qwen3-30b-a3b", "--hardware", "h100-sxm", "--stack", "vllm", *SHORT)
    asked = (
        ("compare", "--policies", "gpu_only", "--formats", "all=fp8"),
        ("compare", "--policies", "gpu_only", "--dtype", "fp8"),
        ("compare", "--policies", "gpu_only", "--formats", "fp8"),
        ("arrivals", "--policies", "gpu_only", "--requests", "4", "--formats", "fp8"),
        ("plan", "--dtype", "fp8"),
    )
    for command, *more in asked:
        _, out, err = run(command, *where, *more)
        assert err.count(note) == 1, (command, more)
        assert "note:" not in out
    for said in (("--formats", "all=fp8-b128"), ("--formats", "kv=bf16"), ()):
        assert "one scale" not in run("compare", *where, "--policies", "gpu_only", *said)[2]
    elsewhere = ("qwen3-30b-a3b", "--hardware", "h100-sxm", "--stack", "streams", *SHORT, "--formats", "all=fp8")
    assert "one scale" not in run("compare", *elsewhere, "--policies", "gpu_only")[2]


def test_a_comparison_says_which_formats_and_stack_nobody_said(run: Run) -> None:
    asked = ("compare", "qwen3-30b-a3b", "--hardware", "rtx-4090", "--policies", "on_demand", *SHORT)
    taken = "Taken: weights as published, experts in bf16, under streams, this project's runtime. Of an engine,"
    assert f"{taken} as on the card of `pregate plan`: --stack llama-cpp --formats all=q4_k_m." in run(*asked)[1]
    for said in (("--formats", "q4_k_m"), ("--dtype", "fp8"), ("--stack", "streams"), ("--stack", "llama-cpp")):
        assert "Taken:" not in run(*asked, *said)[1]
    fitted = ("compare", "switch-base-8", "--hardware", "a100-sxm4-80gb", "--policies", "on_demand", *SHORT)
    assert "Taken:" not in run(*fitted)[1]


def test_cards_that_cannot_share_heads_are_told_to_have_layers_in_turn(run: Run) -> None:
    note = "note: qwen3-30b-a3b: 32 heads of attention cannot be shared evenly by 3 cards: take a number of cards that"
    for command in ("plan", "compare"):
        asked = (command, "qwen3-30b-a3b", "--hardware", "3x h100-sxm", "--stack", "vllm", *SHORT)
        status, out, err = run(*asked)
        assert (status, err.count(note)) == (0, 1)
        assert "gpu_only@turns=3" in out
    assert note not in run("plan", "qwen3-30b-a3b", "--hardware", "2x h100-sxm", "--stack", "vllm", *SHORT)[2]
