"""The command line: `main`, what commands share, and `commands`, a file each."""
