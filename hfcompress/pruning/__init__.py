"""Structured pruning: what shares a dimension, what of it goes, and the proof that nothing else changed."""
