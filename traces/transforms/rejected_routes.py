"""Where proposals that are not taken are routed. Nothing is imported here, so that a design can be named at once."""

from __future__ import annotations

ROUTES = ("recorded", "elsewhere")
"""Where the experts of a rejected token are taken from, which no recording has: of the token that was recorded at its
position (the least that the union of a pass grows), or of another of its sequence, drawn (near the most)."""
