"""The verdict card: whole requests judged under every design that a machine's software can run, on one screen."""
