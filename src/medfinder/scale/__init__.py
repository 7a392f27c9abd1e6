"""The same work on one process, on several, or on a cluster: who does it, and what becomes of who falls."""
