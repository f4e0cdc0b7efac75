"""The towers of a checkpoint, read from its configuration: no weights, no table of model names.

A composite configuration (`vision_config`, `text_config`, ...) names the towers; the modules that were built from each
of its parts are found by building the model on the meta device, where tensors have shapes and no storage.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils.hub import TRANSFORMERS_DYNAMIC_MODULE_NAME

from hfcompress.containment import check_contained
from hfcompress.errors import CheckpointError
from hfcompress.narrowing import narrow, record_in
from hfcompress.registry import did_you_mean
from hfcompress.remote_code import REFUSAL, is_trusted, wants_code
from hfcompress.shards import check_weights

try:
    from transformers.initialization import no_init_weights  # type: ignore[import-not-found]
except ImportError:  # transformers 4
    from transformers.modeling_utils import no_init_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Tower",
    "copy_processor",
    "dtype_of",
    "find_towers",
    "has_own_classes",
    "load_config",
    "load_model",
    "meta_model",
    "model_class",
    "select_towers",
    "shapes_of",
    "split_tower",
    "stored_dtype",
    "sub_configs",
]


_REFUSALS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    StrictDataclassError,
)
"""What transformers raises on a configuration or on weights that nothing can be built from."""


_STORED = {"F16": torch.float16, "BF16": torch.bfloat16}
"""What safetensors calls the types in which weights take half the space."""


@dataclass(frozen=True)
class Tower:
    """A part of a model that was built from one part of its configuration.

    Attributes:
        name: "vision", "text", "audio", ..., or "model" where the configuration is not composite.
        module: Dotted name of the tower's module, empty for the whole model.
        config_key: Attribute of the configuration that describes the tower, empty for the whole.
        parameters: Number of parameters.
    """

    name: str
    module: str
    config_key: str
    parameters: int


def load_config(path: Path) -> PretrainedConfig:
    """Read the configuration of a checkpoint folder.

    Raises:
        CheckpointError: There is none, transformers cannot read it, or something in the folder leads out of it.
    """
    if not (path / "config.json").is_file():
        msg = f"{path} holds no config.json, so it is not a checkpoint; give a folder that `save_pretrained` wrote"
        raise CheckpointError(msg)
    check_contained(path)
    try:
        if not isinstance(json.loads((path / "config.json").read_bytes()), dict):
            msg = f"{path / 'config.json'}: expected a JSON object with the key model_type; fetch the checkpoint again"
            raise CheckpointError(msg)
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=is_trusted(path))
    except (OSError, *_REFUSALS) as error:
        why = REFUSAL if wants_code(path) and not is_trusted(path) else error
        msg = f"transformers cannot read {path / 'config.json'}: {why}"
        raise CheckpointError(msg) from error
    if not is_trusted(path):
        _forget_code(config)
    return config


def _forget_code(config: PretrainedConfig) -> None:
    """Take away what the parts of a configuration tell of own code: a model asks at the terminal before it runs it."""
    for part in sub_configs(config).values():
        vars(part).pop("auto_map", None)
        _forget_code(part)


def load_model(path: Path, dtype: torch.dtype | Literal["auto"] = torch.float32) -> PreTrainedModel:
    """Load a checkpoint with the class that its configuration names, from safetensors only.

    Args:
        path: The checkpoint folder.
        dtype: Type of the weights in memory; "auto" for the one that the configuration says, or else the stored one.

    Raises:
        CheckpointError: The weights are missing, are not safetensors, or do not fit the configuration.
    """
    config = load_config(path)
    check_weights(path)
    try:
        model, loading = model_class(config).from_pretrained(
            path, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, SafetensorError, *_REFUSALS) as error:
        msg = f"the weights in {path} cannot be loaded: {error}; fetch or save the checkpoint again"
        raise CheckpointError(msg) from error
    if wrong := [*loading["missing_keys"], *loading["mismatched_keys"]]:
        msg = (
            f"the weights in {path} are incomplete: {len(wrong)} tensors are missing or misshapen, {wrong[0]} first; "
            "fetch or save the checkpoint again, with the configuration that belongs to it"
        )
        raise CheckpointError(msg)
    loaded: PreTrainedModel = model.eval()
    return loaded


def dtype_of(config: PretrainedConfig) -> torch.dtype:
    """Return the type of the weights that a configuration says, float32 where it says none."""
    dtype = getattr(config, "dtype", None) or torch.float32
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype))


def stored_dtype(path: Path) -> torch.dtype:
    """Return the type in which most weights of a checkpoint folder are stored, float32 where they are quantized.

    Raises:
        CheckpointError: The weights cannot be read.
    """
    counts: dict[torch.dtype, int] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no dictionary
                    part = weights.get_slice(name)
                    dtype = _STORED.get(part.get_dtype(), torch.float32)
                    counts[dtype] = counts.get(dtype, 0) + math.prod(part.get_shape())
        except (OSError, SafetensorError) as error:
            msg = f"{file} cannot be read: {error}"
            raise CheckpointError(msg) from error
    return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)


def copy_processor(source: Path, output: Path) -> None:
    """Copy the processor's files as they are: everything small that is neither of weights, configuration nor card.

    Code is copied where it is trusted. A report of the source would speak of other files, and an index of its shards
    name files that are not there.
    """
    suffixes = {".json", ".txt", ".model", ".jinja", *([".py"] if is_trusted(source) else [])}
    for file in source.iterdir():
        if (
            file.is_file()
            and file.suffix in suffixes
            and not file.name.endswith((".index.json", "report.json"))
            and not (output / file.name).exists()
        ):
            shutil.copyfile(file, output / file.name)


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the transformers class that the configuration names in `architectures`.

    Raises:
        CheckpointError: It names none, or one that this version of transformers does not have.
    """
    names = config.architectures
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        msg = f"the config.json of this {config.model_type!r} model names no class in `architectures`; add it"
        raise CheckpointError(msg)
    found = _own_class(config, names[0]) or getattr(transformers, names[0], None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        msg = f"transformers {transformers.__version__} has no model class {names[0]!r}, which config.json names"
        if getattr(config, "auto_map", None):
            msg += f": {REFUSAL}"
        raise CheckpointError(msg)
    return found


def has_own_classes(config: PretrainedConfig) -> bool:
    """Return whether configuration or model of a checkpoint are of classes that come with it, and are trusted."""
    names = config.architectures or [""]
    return type(config).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME) or bool(_own_class(config, names[0]))


def _own_class(config: PretrainedConfig, name: str) -> type[PreTrainedModel] | None:
    """Return the class that comes with a checkpoint, where a recipe trusts it; saving such a model saves its code."""
    folder = Path(config.name_or_path or "")
    for auto_class, reference in (getattr(config, "auto_map", None) or {}).items():
        if str(reference).rpartition(".")[2] == name and folder.is_dir() and is_trusted(folder):
            found: type[PreTrainedModel] = get_class_from_dynamic_module(reference, folder)
            found.register_for_auto_class(auto_class)
            return found
    return None


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """Build the model on the meta device: every shape, no memory; with the shapes of the record that `config` carries.

    Raises:
        CheckpointError: No model can be built from the configuration.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # noqa: SLF001 - the only kernel whose every product autograd can see
    try:
        with torch.device("meta"), no_init_weights():  # there are no values to draw, and it takes half of the time
            model: PreTrainedModel = model_class(config)(config).eval()
        model.tie_weights()  # which is part of the initialization in transformers 5
    except _REFUSALS as error:
        msg = f"no {model_class(config).__name__} can be built from this config: {error}"
        raise CheckpointError(msg) from error
    if (record := record_in(config)) is not None:
        narrow(model, record)
    return model


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry of the model's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def sub_configs(config: PretrainedConfig) -> dict[str, PretrainedConfig]:
    """Return the parts of a composite configuration by attribute ("vision_config"), in order of definition."""
    return {key: part for key, part in vars(config).items() if isinstance(part, PretrainedConfig)}


def find_towers(model: PreTrainedModel) -> tuple[Tower, ...]:
    """Return every module that was built from a part of the configuration; the whole model where there are no parts."""
    towers = [
        Tower(key.removesuffix("_config"), name, key, _count(module))
        for key, part in sub_configs(model.config).items()
        for name, module in _built_from(model, part)
    ]
    return tuple(towers) or (Tower("model", "", "", _count(model)),)


def split_tower(model: PreTrainedModel, tower: Tower, stacks: list[str]) -> dict[str, Tower]:
    """Tell the stacks of blocks of one tower apart, as those of an encoder and of a decoder.

    Args:
        model: The model.
        tower: A tower with several stacks, or the whole model.
        stacks: Dotted names of its lists of blocks.

    Returns:
        Stack → a tower of its own; the tower itself where it has but one stack.
    """
    if len(stacks) == 1:
        return {stacks[0]: tower}
    parents = [stack.rpartition(".")[0] for stack in stacks]
    names = [parent.rpartition(".")[2] for parent in parents]
    if len(set(names)) < len(stacks):
        names, parents = [stack.rpartition(".")[2] for stack in stacks], stacks
    if len(set(names)) < len(stacks):
        names = [stack.replace(".", "_") for stack in stacks]
    prefix = f"{tower.name}_" if tower.config_key else ""
    return {
        stack: Tower(prefix + name, parent, tower.config_key, _count(model.get_submodule(parent)))
        for stack, name, parent in zip(stacks, names, parents, strict=True)
    }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _built_from(model: PreTrainedModel, part: PretrainedConfig) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the outermost modules that hold a copy of this configuration part."""
    outer: list[str] = []
    for name, module in model.named_modules():
        held: Any = getattr(module, "config", None)
        inside = any(name.startswith(f"{path}.") for path in outer)
        if name and not inside and type(held) is type(part) and _same(held, part):
            outer.append(name)
            yield name, module


def _same(one: PretrainedConfig, other: PretrainedConfig) -> bool:
    """Whether two configurations describe the same module; run-time switches do not count."""
    return _described(one) == _described(other)


def _described(config: PretrainedConfig) -> dict[str, Any]:
    return {
        key: value
        for key, value in config.to_dict().items()
        if not key.startswith("_") and key not in {"torch_dtype", "dtype", "transformers_version", "architectures"}
    }


def select_towers(towers: Iterable[Tower], names: Iterable[str]) -> dict[str, Tower]:
    """Return the towers that a recipe names; `all` stands for every tower that is not named.

    Returns:
        Tower name → tower, for each tower that some name covers.

    Raises:
        CheckpointError: A name is not one of the model's towers, or `all` stands for none.
    """
    known = {tower.name: tower for tower in towers}
    wanted = list(names)
    for name in wanted:
        if name != "all" and name not in known:
            msg = f"there is no tower {name!r}{did_you_mean(name, known)}; this model has: {', '.join(known)}"
            raise CheckpointError(msg)
    if "all" in wanted and known and known.keys() <= set(wanted):
        msg = f"`all` covers no tower, for each is named: {', '.join(known)}; say there what goes of it"
        raise CheckpointError(msg)
    return known if "all" in wanted else {name: known[name] for name in wanted}
