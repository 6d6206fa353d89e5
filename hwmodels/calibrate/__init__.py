"""From measurements to a fit: constants of a machine and its software by least squares."""
