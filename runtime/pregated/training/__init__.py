"""Training, fine-tuning and evaluation, and the experiment with gate positions that is made of them."""
