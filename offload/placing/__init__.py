"""Where parts of a model live and run, and what that takes: host, accelerator, storage."""
