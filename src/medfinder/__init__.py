"""Find the 3D CT studies that match a sentence, a keyword, a report or another CT."""

__version__ = "0.1.0"
