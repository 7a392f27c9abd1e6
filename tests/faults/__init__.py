"""Faults on purpose: harness and tests."""
