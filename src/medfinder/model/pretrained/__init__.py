"""One file an encoder that others trained."""
