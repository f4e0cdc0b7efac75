"""Pruning the feed-forward layers of every family, with no code for any of them in the package."""

import json
from pathlib import Path

import pytest

from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios
from hfcompress.pruning.surgery import TOLERANCE
from tests.families import FAMILIES, build

STOCK = [
    "altclip",
    "blip2",
    "blip_captioning",
    "blip_vqa",
    "chinese_clip",
    "clap",
    "clip",
    "clipseg",
    "donut",
    "flava",
    "gemma3",
    "groupvit",
    "idefics3",
    "internvl",
    "kosmos2",
    "layoutlmv3",
    "llava",
    "llava_qwen2",
    "owlvit",
    "paligemma",
    "pix2struct",
    "qwen2_5_vl",
    "qwen2_audio",
    "siglip",
    "siglip2",
    "smolvlm",
    "speech2text",
    "trocr",
    "vilt",
    "vision_text_dual_encoder",
    "vit_gpt2",
    "whisper",
]

pytestmark = [
    # classes of transformers 4 that warn of arguments which other classes of transformers still give them
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def pruned(name: str, folder: Path) -> dict[str, object]:
    """Build a family's tiny model, remove a quarter of all feed-forward units, and return what the step says."""
    build(FAMILIES[name]).save_pretrained(folder / "source")
    (folder / "pruned").mkdir()
    step = Prune(PruneOptions(towers={"all": TowerRatios(ffn=0.25)}))
    return dict(step.apply(Checkpoint(folder / "source", "transformers"), folder / "pruned", StepContext()))


@pytest.mark.parametrize("name", STOCK)
def test_stock(name: str, tmp_path: Path) -> None:
    """A quarter of the feed-forward units of all towers goes, exactly, and a stock configuration says what is left."""
    detail = pruned(name, tmp_path)
    assert isinstance(detail["proof_max_difference"], float)
    assert detail["proof_max_difference"] <= TOLERANCE
    assert detail["config_edits"]
    assert "quantization_config" not in json.loads((tmp_path / "pruned" / "config.json").read_text())


@pytest.mark.parametrize("name", ["align", "bridgetower", "florence2", "qwen2_vl", "xclip"])
def test_beside_stock(name: str, tmp_path: Path) -> None:
    """A stack whose kept units no field says (a whole ratio, code) is recorded beside the configuration, and told."""
    changes = pruned(name, tmp_path)["changes"]
    assert isinstance(changes, list)
    assert [line for line in changes if "once hfcompress is imported" in str(line)]
    assert [line for line in changes if "once hfcompress is imported" not in str(line)]
