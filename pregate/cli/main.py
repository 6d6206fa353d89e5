"""The command line: `pregate --help`. One clear line and status 2 for anything a user can get wrong."""

from __future__ import annotations

import sys

import typer

from traces.errors import PregateError

__all__ = ["application", "main"]


def application() -> typer.Typer:
    """The command line with every command on it."""
    from pregate.cli import commands

    app = typer.Typer(
        name="pregate",
        help="Predict the latency of offloaded Mixture-of-Experts inference, and how sure that prediction is.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    commands.register(app)
    return app


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
