"""Puts what a recipe names on the Hub of the tests."""

from pathlib import Path

from hfcompress.recipe import Recipe
from tests.loopback_hub import LoopbackHub

from .models import CONVERTED, MODELS
from .rows import DATASETS


def serve(hub: LoopbackHub, recipe: Recipe, scratch: Path) -> None:
    """Make the model and the datasets of a recipe, where the Hub does not hold them yet.

    Args:
        hub: The Hub of this process.
        recipe: What names them.
        scratch: An empty folder.
    """
    model = recipe.model.id
    if not _holds(hub, model, "model"):
        folder = scratch / "model"
        folder.mkdir()
        MODELS[model](folder)
        if model in CONVERTED:
            _serve_with_conversion(hub, model, folder)
        else:
            hub.add_repo(model, folder)
    for dataset in {reference.dataset for reference in recipe.data.values()}:
        if not _holds(hub, dataset, "dataset"):
            folder = scratch / dataset.replace("/", "--")
            DATASETS[dataset].write(folder)
            hub.add_repo(dataset, folder, repo_type="dataset")


def _holds(hub: LoopbackHub, name: str, kind: str) -> bool:
    try:
        hub.repository(name, kind)  # type: ignore[arg-type]
    except KeyError:
        return False
    return True


def _serve_with_conversion(hub: LoopbackHub, model: str, folder: Path) -> None:
    """Serve a pickle on the main branch, which nobody reads, and the safetensors in a pull request of the Hub's bot."""
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle that anybody should read")
    hub.add_repo(model, folder)
    hub.offer(model, {weights.name: content}, title="Adding `safetensors` variant of this model", author="SFconvertbot")
