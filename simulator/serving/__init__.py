"""Requests that arrive while others are served: when each gets its tokens, from what passes of a server take."""
