"""What a family is, and how its tiny model is built."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """A tiny model of one architecture, and inputs that its forward takes.

    Args:
        name: Key in `FAMILIES`.
        config: Makes a fresh composite config; its `architectures` names the class to build.
        inputs: Makes two rows of inputs from such a config, the same ones at every call.
    """

    name: str
    config: Callable[[], PretrainedConfig]
    inputs: Callable[[PretrainedConfig], dict[str, Tensor]]


def composite(model_type: str, architecture: str, **arguments: Any) -> PretrainedConfig:  # noqa: ANN401 - as config classes
    """Return the config of `model_type` that names `architecture` as its class."""
    # copied, for some config classes write into the dicts they are given
    config = AutoConfig.for_model(model_type, **deepcopy(arguments))
    config.architectures = [architecture]  # not an argument: Qwen2-VL hands those it does not know to its text config
    return config


def build(family: Family, seed: int = 0) -> PreTrainedModel:
    """Return the family's model in eval mode, every parameter away from zero so that no slicing bug can hide."""
    config = family.config()
    (architecture,) = config.architectures
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = getattr(transformers, architecture)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()
