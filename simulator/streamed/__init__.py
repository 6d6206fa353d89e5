"""A schedule that arrives part by part: walked, counted and explained in memory bounded by a part."""
