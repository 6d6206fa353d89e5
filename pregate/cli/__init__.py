"""The command line: `main`; `commands`, a file each; `questions`, what they are asked; `checks` of options."""
