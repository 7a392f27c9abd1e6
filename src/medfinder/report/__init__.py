"""Report text → `Report` with sections, and its findings over a vocabulary with CUIs.

Knows words only: no pixels, no vectors, no files of the user's.
"""
