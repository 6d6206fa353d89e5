"""Architectures from the files of weights themselves: GGUF and safetensors, by their headers."""
