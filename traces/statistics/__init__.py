"""What a trace is like: locality, reuse distances, popularity, and whether two traces differ by more than chance."""
