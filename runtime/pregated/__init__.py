"""Models whose gates look ahead: a small transformer, others rewired, their training, and what guesses their gates."""
