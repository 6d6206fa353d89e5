"""Architectures from a Hugging Face `config.json` and the files beside it."""
