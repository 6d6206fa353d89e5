"""What is asked of one word of a command line: a check takes the option as it is typed, and the word, and raises."""
