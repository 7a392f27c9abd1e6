"""One file a kind of archive."""
