"""The command line: `pregate --help`. One clear line and status 2 for anything a user can get wrong."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pregate.cli.commands import PLAIN, Commands
from traces.errors import PregateError

__all__ = ["application", "main"]


def application() -> typer.Typer:
    """The command line with every command on it."""
    app = typer.Typer(
        name="pregate",
        cls=Commands,
        help="Predict the latency of offloaded Mixture-of-Experts inference, and how sure that prediction is.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        **PLAIN,
    )
    app.callback()(_options)
    return app


def _version(asked: bool) -> None:
    if asked:
        from pregate import __version__

        print(f"pregate {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Predict the latency of offloaded Mixture-of-Experts inference, and how sure that prediction is."""


def main() -> None:
    """Entry point: run the command line; what a user can mend ends in one line and status 2."""
    try:
        application()()
    except PregateError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
