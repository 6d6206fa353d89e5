"""Model architectures: formats, parts, parameter counts, and configurations read from files."""
