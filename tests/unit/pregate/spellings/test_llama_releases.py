"""Which stack a release of llama.cpp is."""

from __future__ import annotations

import pytest

from hwmodels.stacks.stack_files import stack_names
from pregate.spellings.llama_releases import NOW, of_build, of_date, of_pull
from pregate.spellings.names import our_name

NOTHING = ("", "")


@pytest.mark.parametrize(
    ("text", "stack"),
    [
        ("b1696", "llama-cpp-2023"), ("build: 1c5eba6f (3266)", "llama-cpp-2023"), ("build 5169", "llama-cpp-2023"),
        ("b5200", "llama-cpp-2025"), ("version: 6097 (9515c613)", "llama-cpp-2025"),
        ("release b6300", "llama-cpp-late-2025"), ("llama.cpp build b7899", "llama-cpp-late-2025"),
        ("b7900", NOW), ("build: b508845ca (9493)", NOW), ("0.3.0 (build 10621, commit c1d0e7a00)", NOW),
        ("b4096, then build 5000", "llama-cpp-2023"), ("Build=6123", "llama-cpp-2025"),
    ],
)  # fmt: skip
def test_a_build_is_of_the_stack_of_its_time(text: str, stack: str) -> None:
    assert of_build(text)[0] == stack
    assert stack in stack_names()


@pytest.mark.parametrize("text", ["", "b2048", "b 4096", "ub4096", "b512", "tg128", "build 12.4.1", "0.3.16", "ab6123"])
def test_what_is_no_build(text: str) -> None:
    assert of_build(text) == NOTHING


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("December 2023", ("llama-cpp-2023", "2023-12")), ("date 2025-03-31", ("llama-cpp-2023", "2025-03")),
        ("Apr 3, 2025", ("llama-cpp-2025", "2025-04")), ("2025-08", ("llama-cpp-2025", "2025-08")),
        ("Sept 2025", ("llama-cpp-late-2025", "2025-09")), ("2026-01-31", ("llama-cpp-late-2025", "2026-01")),
        ("2026-02-01", (NOW, "2026-02")), ("2025-13", NOTHING), ("CUDA 12.8", NOTHING), ("2025-08-1x", NOTHING),
        ("maybe 2025", NOTHING), ("12025-08", NOTHING),
    ],
)  # fmt: skip
def test_a_month_is_of_the_stack_of_its_time(text: str, found: tuple[str, str]) -> None:
    assert of_date(text) == found


def test_a_pull_request_is_of_the_stack_of_its_time() -> None:
    at = "https://github.com/ggml-org/llama.cpp/{}/{}"
    assert of_pull(at.format("pull", 13013)) == ("llama-cpp-2023", "pull request or issue 13013")
    assert [of_pull(at.format("issues", n))[0] for n in (13014, 15524, 15525, 18957, 18958)] == [
        "llama-cpp-2025", "llama-cpp-2025", "llama-cpp-late-2025", "llama-cpp-late-2025", NOW,
    ]  # fmt: skip
    assert of_pull(at.format("discussions", 4508)) == NOTHING
    assert of_pull("https://github.com/ggml-org/other/pull/15") == NOTHING


def test_an_engine_that_is_called_by_its_build_is_that_release() -> None:
    assert our_name("stack", "llama.cpp b6123") == "llama-cpp-2025"
    assert our_name("stack", "llama.cpp (build 4291)") == "llama-cpp-2023"
    assert our_name("stack", "llama-server b9000") == NOW
    assert our_name("stack", "llama.cpp") == NOW
