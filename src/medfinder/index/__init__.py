"""Vectors, words and facets of studies in one folder: exact and partitioned search, BM25, filters."""
