"""Constants that rows determine, how far they scatter, and which of them carry over to machines nobody has seen."""
