"""What executes ops: memory pools, lanes and one clock, on a processor with paced links or on CUDA streams."""
