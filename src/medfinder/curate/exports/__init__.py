"""The layouts a curated dataset is given out in: one file each, as `sources` has one a source."""
