"""Files of others, opened safely: lines, arrays, packed files, tables, what `torch.save` wrote."""
