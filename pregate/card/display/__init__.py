"""The words of a card: whole, or on one screen."""
