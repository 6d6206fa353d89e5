"""What a row of a table says, however others write it: names, cells, flags, cards."""
