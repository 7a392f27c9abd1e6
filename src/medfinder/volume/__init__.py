"""Pixels: a file or folder → `read.read_volume` → a checked `volume.Volume` → `preprocess` → an array."""
