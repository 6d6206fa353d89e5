"""Routing of Hugging Face models as they generate: hooks on their routers, read into a trace."""
