"""Quantization: one module for each runtime, behind the step `quantize`."""
