"""What is brought ahead of its gate: what gates have selected, what is guessed, what storage is read for."""
