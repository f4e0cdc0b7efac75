"""Tiny stand-ins for what the recipes of real models name on the Hub, under the same ids.

Models have the same architecture and the same classes of processors, datasets the same configurations, splits, columns
and types; sizes are as small as they can be, and all content is noise.
"""

from .models import MODELS
from .rows import DATASETS
from .serve import serve

__all__ = ["DATASETS", "MODELS", "serve"]
