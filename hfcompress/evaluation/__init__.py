"""Evaluation: one module for each task."""
