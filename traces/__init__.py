"""The workload: model architectures and routing traces, from real recordings or synthesised."""
