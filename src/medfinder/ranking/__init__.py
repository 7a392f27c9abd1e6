"""Scores of queries against a gallery → ranks → measures, with their uncertainty.

Knows arrays and row numbers only: no studies, no text, no network.
"""
