"""Scores of queries against a gallery → ranks → measures, with their uncertainty.

Knows arrays, row numbers and ids only: no studies, no text, no network.
"""
