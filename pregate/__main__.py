"""`python -m pregate`: the command line."""

from pregate.cli.main import main

main()
