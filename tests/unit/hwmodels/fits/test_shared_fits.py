"""A machine by pull request: one file that says under which conditions it was measured, and nothing of whose it is."""

from __future__ import annotations

import getpass
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hwmodels.fits.conditions import CONDITIONS, check_conditions
from hwmodels.fits.fit import Fit, digest_of
from hwmodels.fits.fit_files import FITS_DIR, fit_names, load_fit
from hwmodels.fits.trust import LEVELS
from hwmodels.platform import load_platform, platform_of
from tests import small_fits
from tests.command_line import Run
from traces.errors import InvalidFile, InvalidInput, PregateError

GOOD = {"system": "Linux x86_64", "driver": "580.105.08", "pcie_generation": 4.0, "throttled": "power cap", "ecc": True}


def shared(**conditions: Any) -> Fit:
    return small_fits.shared(**{**GOOD, **conditions})


@pytest.mark.parametrize("name", fit_names())
def test_every_fit_in_the_folder_is_one(name: str) -> None:
    """What a pull request brings is read whole, named after what it is of, and predicts."""
    fit = load_fit(name)
    assert fit.name == f"{fit.hardware}.{fit.stack}" == name
    assert platform_of(fit).calibration(fit.dtypes[0]) == "fitted"
    assert "digest" in (FITS_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    if "--share" in fit.provenance["command"]:
        assert fit.conditions
        assert fit.provenance["trust"] in LEVELS[:2]


def test_nothing_but_fits_and_what_reads_them_lies_in_the_folder() -> None:
    data = {path.name for path in FITS_DIR.iterdir() if path.name != "__pycache__" and path.suffix != ".py"}
    assert data == {f"{name}.yaml" for name in fit_names()}


def test_a_shared_fit_is_read_as_it_was_written(tmp_path: Path) -> None:
    fit = shared()
    path = tmp_path / "cpu-made-up-8-core-2c.threads.yaml"
    path.write_text(fit.to_yaml(), encoding="utf-8")
    assert load_fit(path) == fit
    assert load_platform(str(path)).fit == fit


def write(document: dict[str, Any], tmp_path: Path, *, sign: bool = True) -> Path:
    document.pop("digest", None)
    if sign:
        document["digest"] = digest_of(document)
    path = tmp_path / "cpu-made-up-8-core-2c.threads.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hostname", "mine", "unknown condition 'hostname'"),
        ("serial", "0123", "unknown condition 'serial'"),
        ("driver", "alice@lab", "is not a name of a product"),
        ("driver", "gpu7.lab.example.org", "is not a name of a product"),
        ("driver", "10.0.0.7", "is not a name of a product"),
        ("processor", "/home/alice", "is not a name of a product"),
        ("processor", "x" * 200, "is not a name of a product"),
        ("processor", "two\nlines", "is not a name of a product"),
        ("pcie_width", "sixteen", "is not a number from 0 on"),
        ("pcie_width", -1, "is not a number from 0 on"),
        ("pcie_width", float("inf"), "is not a number from 0 on"),
        ("pcie_width", True, "is not a number from 0 on"),
        ("ecc", "yes please", "is not true or false"),
        ("sm_clock_hz", 1410.0, "can be, in SI units"),
        ("temperature_c", 4000.0, "can be, in SI units"),
        ("driver", ["580"], "is not a name of a product"),
        ("driver", {"a": {"b": "c"}}, "is not a name of a product"),
    ],
)
def test_a_condition_that_is_none_is_refused_in_one_line(key: str, value: object, message: str) -> None:
    with pytest.raises(PregateError, match=message) as refused:
        check_conditions({key: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["hostname", "driver"])
def test_a_file_with_such_a_condition_is_refused(key: str, tmp_path: Path) -> None:
    document = yaml.safe_load(shared().to_yaml())
    document["conditions"][key] = "alice@lab"
    with pytest.raises(InvalidFile, match=f"cpu-made-up-8-core-2c.threads.yaml: .*{key}"):
        load_fit(write(document, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("author", "alice", "unknown provenance of a shared fit 'author'"), ("command", "/home/alice/x", "is no version")],
)
def test_a_shared_fit_says_nothing_more_of_how_it_was_made(key: str, value: str, message: str, tmp_path: Path) -> None:
    document = yaml.safe_load(shared().to_yaml())
    document["provenance"][key] = value
    with pytest.raises(PregateError, match=message):
        load_fit(write(document, tmp_path))


def test_a_clock_was_never_below_its_least_and_trust_is_a_word_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="sm_clock_least_hz is above"):
        check_conditions({"sm_clock_hz": 1.2e9, "sm_clock_least_hz": 1.3e9})
    document = yaml.safe_load(shared().to_yaml())
    document["provenance"]["trust"] = "superb"
    with pytest.raises(PregateError, match="superb"):
        load_fit(write(document, tmp_path))


def test_a_shared_fit_needs_its_digest_and_the_digest_holds_the_conditions(tmp_path: Path) -> None:
    document = yaml.safe_load(shared().to_yaml())
    with pytest.raises(InvalidFile, match="a shared fit without its digest"):
        load_fit(write(dict(document), tmp_path, sign=False))
    signed = yaml.safe_load(shared().to_yaml())
    signed["conditions"]["pcie_generation"] = 5.0
    path = tmp_path / "changed.threads.yaml"
    path.write_text(yaml.safe_dump(signed), encoding="utf-8")
    with pytest.raises(InvalidFile, match="it was changed after it was fitted"):
        load_fit(path)


def test_a_shared_fit_is_a_yaml_file(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    status, _, told = run("measure", "--share", "-o", str(tmp_path / "fit.json"))
    assert status == 2
    assert "a shared fit is a YAML file" in told
    assert not list(tmp_path.iterdir())


def test_conditions_of_a_processor_name_nobody() -> None:
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from runtime.machine.conditions import ConditionsWatch

    watch = ConditionsWatch("cpu")
    watch.look()
    found = watch.found()
    check_conditions(found)
    assert {"system", "dram_bytes"} <= set(found) <= set(CONDITIONS)
    text = " ".join(str(value) for value in found.values()).lower()
    for own in (socket.gethostname(), getpass.getuser()):
        assert len(own) < 4 or own.lower() not in text


def test_conditions_of_a_device_are_what_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from runtime.machine import conditions

    clocks = iter([1410, 1200, 1305])
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetClockInfo=lambda device, kind: next(clocks) if kind == 1 else 1593,
        nvmlDeviceGetMaxClockInfo=lambda device, kind: 1410,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda device: 0x4 | 0x1,
        nvmlDeviceGetCurrPcieLinkGeneration=lambda device: 4,
        nvmlDeviceGetMaxPcieLinkGeneration=lambda device: 4,
        nvmlDeviceGetCurrPcieLinkWidth=lambda device: 8,
        nvmlDeviceGetMaxPcieLinkWidth=lambda device: 16,
        nvmlDeviceGetPowerManagementLimit=lambda device: 400_000,
        nvmlDeviceGetSerial=lambda device: "secret",
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    device = SimpleNamespace(name="NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: device)
    monkeypatch.setattr(conditions, "describe_device", lambda backend: {"dram_bytes": 1 << 40})
    monkeypatch.setattr(conditions, "software", lambda: {"driver": "580.105.08"})
    watch = conditions.ConditionsWatch("cuda")
    watch.look()
    watch.look()
    found = watch.found()
    assert (found["sm_clock_hz"], found["sm_clock_least_hz"], found["sm_clock_max_hz"]) == (1305e6, 1200e6, 1410e6)
    assert (found["pcie_generation"], found["pcie_width"], found["pcie_width_max"]) == (4.0, 8.0, 16.0)
    assert (found["throttled"], found["power_limit_w"], found["driver"]) == ("power cap", 400.0, "580.105.08")
    assert "temperature_c" not in found  # this library does not answer it
    assert "secret" not in str(found)


def test_a_device_without_the_library_is_shared_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from runtime.machine import conditions

    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name="NVIDIA L4"))
    monkeypatch.setattr(conditions, "describe_device", lambda backend: {"dram_bytes": 1 << 40})
    monkeypatch.setattr(conditions, "software", lambda: {"driver": "unknown"})
    found = conditions.ConditionsWatch("cuda").found()
    assert found["device"] == "NVIDIA L4"
    assert "throttled" not in found


def test_the_slot_of_a_device_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from runtime.machine import conditions

    slot = tmp_path / "0000:3b:00.0"
    slot.mkdir()
    for name, text in (("current_link_speed", "16.0 GT/s PCIe"), ("current_link_width", "16"), ("numa_node", "1")):
        (slot / name).write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(conditions, "_PCI", tmp_path)
    device = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: device)
    assert conditions._of_bus() == {"pcie_generation": 4.0, "pcie_width": 16.0, "device_numa_node": 1.0}


def test_conditions_are_checked_where_a_fit_is_shared() -> None:
    with pytest.raises((InvalidFile, InvalidInput)):
        check_conditions(GOOD | {"user": getpass.getuser()})
