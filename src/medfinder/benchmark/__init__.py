"""Vectors of volumes and texts, and what their reports say → numbers that can be compared."""
