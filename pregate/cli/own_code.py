"""Code of a user's own is loaded where its user names it: by an option that takes designs, on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traces.errors import InvalidInput

TAKE_DESIGNS = ("policy", "policies", "now")
"""The options whose text names designs."""


def load_own_policies(command: str | None, given: Mapping[str, Any]) -> None:
    """Execute the files of code that the typed options in `given` name. Raises what `load_policy` raises, and
    `InvalidInput` for a command whose policies are evictions.
    """
    for option in TAKE_DESIGNS:
        text = given.get(option)
        if isinstance(text, str) and ".py:" in text:
            from offload.own_policies.own_policy_names import is_own_name
            from pregate.named import load_policy

            for design in filter(is_own_name, map(str.strip, text.split(","))):
                if command == "residency":
                    raise InvalidInput(
                        f"--{option} {design}: residency replays evictions, a policy of your own says what is fetched: "
                        f"simulate it"
                    )
                load_policy(design)
