"""Files that are not what they seem: pipes, devices, marks, keys and numbers that YAML reads in two ways."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pregate
from tests.command_line import Run
from traces.errors import InvalidFile, InvalidInput
from traces.foundation import documents
from traces.foundation.documents import parse_yaml, read_text

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "traces" / "model" / "architectures" / "switch-base-8.yaml"


@pytest.fixture(params=["pipe", "endless", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "odd.yaml"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["models", "show", "FILE"],
        ["hardware", "show", "FILE"],
        ["compare", "switch-base-8", "--hardware", "FILE"],
        ["compare", "switch-base-8", "--hardware", "t4", "--trace", "FILE"],
        ["trace", "stats", "FILE"],
        ["trace", "import", "FILE", "--format", "route_trace_v1", "-o", "o.safetensors"],
        ["trace", "import", "FILE", "--format", "gptoss_npz", "-o", "o.safetensors"],
        ["residency", "FILE"],
        ["sweep", "FILE"],
        ["calibrate", "FILE", "-o", "fit.yaml"],
        ["reproduce", "isca24", "--rows", "FILE"],
        ["train", "--short", "-o", "trained", "--text", "FILE"],
        ["monitor", "FILE", "--reference", "gpt-oss-20b-mmlu"],
        ["ledger", "FILE"],
        ["poc", "FILE", "-o", "page.html"],
        ["tune", "gpt-oss-20b", "--hardware", "t4", "--trace", "FILE"],
        ["generate", "FILE"],
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(run: Run, odd: Path, words: list[str]) -> None:
    status, _, error = run(*(str(odd) if word == "FILE" else word for word in words))
    assert (status, len(error.splitlines())) == (2, 1)
    assert "not a regular file" in error


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
@pytest.mark.parametrize("alone", [True, False])
def test_weights_that_are_a_pipe_are_refused_at_once(run: Run, tmp_path: Path, name: str, alone: bool) -> None:
    os.mkfifo(tmp_path / name)
    status, _, error = run("models", "show", str(tmp_path / name if alone else tmp_path))
    assert (status, len(error.splitlines()), "not a regular file" in error) == (2, 1, True), error


def test_a_file_beside_the_configuration_counts_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8, "hidden_size": 64, '
        '"num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 128, "vocab_size": 100, '
        '"num_experts_per_tok": 2}')  # fmt: skip
    assert pregate.load_model(tmp_path).n_experts == 8
    os.mkfifo(tmp_path / "hf_quant_config.json")
    with pytest.raises(InvalidFile, match=r"hf_quant_config\.json: cannot be read, it is not a regular file"):
        pregate.load_model(tmp_path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHIPPED.read_text(), encoding="utf-8-sig")
    assert pregate.load_model(path).total_params == pregate.load_model("switch-base-8").total_params


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]: 3", "a key is a sequence"),
        ("{a: 1}: 3", "a key is a mapping"),
        ("n: 010", "'010'"),
        ("n: 1:30", "'1:30'"),
        ("n: 1_000", "'1_000'"),
        ("n: 0x10", "'0x10'"),
        ("\n".join(f"k{i}: {i}" for i in range(1000)), "more than"),
    ],
)
def test_yaml_that_has_two_readings_or_no_end_is_refused(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_NODES", 1000)
    with pytest.raises(InvalidFile, match="not valid YAML") as refusal:
        parse_yaml(text, "f.yaml")
    assert message in str(refusal.value)


@pytest.mark.parametrize("text", ["n: '٣'", "n: '1_000'", "n: ' '"])
def test_a_number_as_text_is_decimal_and_ascii(text: str) -> None:
    with pytest.raises(InvalidFile, match="is not a number"):
        parse_yaml(text, "f.yaml").number("n")


@pytest.mark.parametrize("name", ['"\\e[31mred\\a"', '"a\\nb"', "x" * 1000, '" "'])
def test_a_name_is_one_printable_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(SHIPPED.read_text().replace("name: switch-base-8", f"name: {name}"))
    with pytest.raises(InvalidInput, match="name") as refusal:
        pregate.load_model(path)
    assert str(refusal.value).isprintable()


def test_a_file_is_read_no_further_than_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_bytes(b"a" * 100)
    with pytest.raises(InvalidFile, match="100 bytes, at most 99"):
        read_text(path, 99)


def test_a_missing_file_with_escapes_in_its_name_moves_no_cursor(run: Run) -> None:
    status, _, error = run("models", "show", "\x1b[31mred.yaml")
    assert status == 2
    assert "\x1b" not in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "pregate", "models"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "standard output: cannot be written" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor before the program begins")
def test_a_closed_standard_output_is_one_line_before_the_work() -> None:
    words = [sys.executable, "-m", "pregate", "compare", "switch-base-8", "--hardware", "a100-sxm4-80gb"]
    shell = f"exec {shlex.join(words)} >&-"
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, "error: standard output: cannot be written (it is closed)\n")


def test_a_disk_that_fills_under_a_dataset_leaves_one_line_and_no_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from pregate.sweeps.dataset_files import write_table\n"
        "from pregate.sweeps.sweep_table import NamedArray, SweepTable\n"
        "some = NamedArray(('n',), np.random.default_rng(0).random(100_000), {})\n"
        "data = SweepTable({'x': some}, {}, {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    write_table(data, Path(sys.argv[1]))\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    path = tmp_path / "o.nc"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("InvalidFile")
    assert not done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["trace", "synth", "switch-base-8", "--output-tokens", "2", "-o", "[bold]t.safetensors"],
        ["compare", "[/x].yaml", "--hardware", "rtx-3060-12gb", "--output-tokens", "2", "--input-tokens", "2"],
        ["simulate", "[/x].yaml", "--hardware", "rtx-3060-12gb", "--output-tokens", "2", "--input-tokens", "2"],
    ],
)
def test_markup_in_a_name_is_text(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = SHIPPED.read_text().replace("name: switch-base-8", "name: '[/x]'")
    (tmp_path / "[").mkdir()
    (tmp_path / "[" / "x].yaml").write_text(text)
    status, out, error = run(*words)
    assert status == 0, error
    if words[0] != "trace":
        assert "[/x]" in out
    shutil.rmtree(tmp_path / "[")
