"""What commands are asked about, a class a question with its options, and what stands for what nobody said."""
