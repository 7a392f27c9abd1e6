"""Synthetic chest CTs with their reports and their truth: `phantom` writes them, `chest` makes one."""
