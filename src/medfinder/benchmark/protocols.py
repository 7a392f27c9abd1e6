"""What is asked of vectors, by name and version: pool, positives, duplicates, ties, measures.

Importing this module files all protocols; those called after a published system are in
`medfinder.benchmark.published`.
"""

from medfinder.benchmark import ours, published
from medfinder.benchmark.protocol import Protocol, ask, jaccard, protocols

__all__ = ["Protocol", "ask", "jaccard", "ours", "protocols", "published"]
