"""Tiny models of many families, made from configs: what the pruning engine is tested on.

from tests.families import FAMILIES, build

family = FAMILIES["clip"]
model = build(family)
outputs = model(**family.inputs(model.config))
"""

from .captioning import CAPTIONING
from .contrastive import CONTRASTIVE
from .documents import DOCUMENTS
from .family import Family, build
from .fusion import FUSION
from .idefics import IDEFICS
from .llava import LLAVA
from .qwen_vl import QWEN_VL
from .speech import SPEECH

_ALL = (*CONTRASTIVE, *FUSION, *CAPTIONING, *DOCUMENTS, *LLAVA, *QWEN_VL, *IDEFICS, *SPEECH)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}

__all__ = ["FAMILIES", "Family", "build"]
