"""What the scripts beside this one take: `--help` says what they write, and what they do not know they refuse."""

from __future__ import annotations

import argparse

__all__ = ["given"]


def given(says: str | None, *names: str) -> list[str]:
    """The arguments of the command line, one for each of `names`. `says`: the docstring of the script, which `--help`
    prints. Ends with status 2, having said why, for an option, or an argument more or less.
    """
    parser = argparse.ArgumentParser(
        description=says, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name in names:
        parser.add_argument(name)
    asked = vars(parser.parse_args())
    return [asked[name] for name in names]
