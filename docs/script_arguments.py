"""What scripts of documents and benchmarks take: `--help` says what they write, what they do not know is refused."""

from __future__ import annotations

import argparse


def given(says: str | None, *names: str) -> list[str]:
    """The arguments of the command line, one for each of `names`, "" for one in brackets that is left out.

    `says`: the docstring of the script, which `--help` prints. An option, or an argument too many or too few, ends the
    script with status 2 and the reason.
    """
    parser = argparse.ArgumentParser(
        description=says, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name in names:
        parser.add_argument(name, nargs="?" if name.startswith("[") else None, default="", metavar=name.strip("[]"))
    asked = vars(parser.parse_args())
    return [asked[name] for name in names]
