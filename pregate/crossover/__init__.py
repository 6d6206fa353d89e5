"""Where the winner changes along an axis: how it is walked, who is best at its points, and what both are called."""
