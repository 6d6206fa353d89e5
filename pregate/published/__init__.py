"""Published measurements and their reproduction."""
