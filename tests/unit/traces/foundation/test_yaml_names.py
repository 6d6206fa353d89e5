from __future__ import annotations

import os
from pathlib import Path

from traces.foundation.yaml_names import yaml_names
from traces.model.architecture import architecture_names


def test_yaml_files_of_a_folder_are_named_in_order_and_new_ones_are_seen(tmp_path: Path) -> None:
    for name in ("b-1.5.yaml", "a.yaml", "notes.md"):
        (tmp_path / name).touch()
    assert yaml_names(tmp_path) == ("a", "b-1.5")
    (tmp_path / "c.yaml").touch()
    os.utime(tmp_path, ns=(1, 1))  # as some time later
    assert yaml_names(tmp_path) == ("a", "b-1.5", "c")


def test_architectures_are_listed_once_while_nothing_changes() -> None:
    assert architecture_names() is architecture_names()
    assert "mixtral-8x7b" in architecture_names()
