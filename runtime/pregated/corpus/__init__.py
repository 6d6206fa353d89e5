"""What a model is trained on: a text, its tokens, windows of it."""
