"""Make multimodal checkpoints smaller and faster, and prove what was kept."""
__all__: list[str] = []
