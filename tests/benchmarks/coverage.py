"""What can be pruned in which family: every axis of every tiny model of `tests/families`, pruned with all proofs.

`python tests/benchmarks/coverage.py --write README.md` puts the table between its two markers in that file; without
`--write` it is printed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hfcompress.anatomy import meta_model  # noqa: E402 - found by the line above
from hfcompress.contracts import Checkpoint, StepContext  # noqa: E402
from hfcompress.errors import HfcompressError  # noqa: E402
from hfcompress.pruning.plan import tower_couplings  # noqa: E402
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios  # noqa: E402
from tests.families import FAMILIES, build  # noqa: E402

if TYPE_CHECKING:
    from hfcompress.pruning.axes import Axis

__all__ = ["BEGIN", "END", "TITLES", "main"]

BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
RATIOS: dict[Axis, tuple[float, ...]] = {"ffn": (0.25,), "heads": (0.5,), "layers": (0.5, 0.25), "width": (0.5, 0.25)}
"""What is removed: the first ratio, and the next one from a tower that cannot lose as much."""
TITLES = {
    "clip": "CLIP",
    "siglip": "SigLIP",
    "siglip2": "SigLIP2",
    "chinese_clip": "Chinese-CLIP",
    "altclip": "AltCLIP",
    "clipseg": "CLIPSeg",
    "owlvit": "OWL-ViT",
    "groupvit": "GroupViT",
    "flava": "FLAVA",
    "align": "ALIGN",
    "blip_captioning": "BLIP, captioning",
    "blip_vqa": "BLIP, question answering",
    "blip2": "BLIP-2",
    "vilt": "ViLT",
    "bridgetower": "BridgeTower",
    "xclip": "X-CLIP",
    "layoutlmv3": "LayoutLMv3",
    "vision_text_dual_encoder": "VisionTextDualEncoder",
    "trocr": "VisionEncoderDecoder, TrOCR",
    "vit_gpt2": "VisionEncoderDecoder, ViT-GPT2",
    "pix2struct": "Pix2Struct",
    "donut": "Donut",
    "whisper": "Whisper",
    "speech2text": "Speech2Text",
    "clap": "CLAP",
    "qwen2_audio": "Qwen2-Audio",
    "llava": "LLaVA, Llama",
    "llava_qwen2": "LLaVA, Qwen2",
    "smolvlm": "SmolVLM",
    "idefics3": "Idefics3",
    "paligemma": "PaliGemma",
    "gemma3": "Gemma 3",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "internvl": "InternVL",
    "florence2": "Florence-2",
    "kosmos2": "Kosmos-2",
}


@dataclass(frozen=True)
class Cell:
    """What became of one axis of one family.

    Attributes:
        verdicts: Of the towers that were pruned: "stock" or "import"; none where nothing could be.
        notes: What was passed over, and why.
    """

    verdicts: frozenset[str]
    notes: tuple[str, ...]


def prune(folder: Path, tower: str, axis: Axis, ratio: float) -> list[str]:
    """Prune one axis of one tower, or of all, with all proofs, and return what the step says of it."""
    step = Prune(PruneOptions(towers={tower: TowerRatios(**{axis: ratio})}))
    with tempfile.TemporaryDirectory() as output:
        detail = step.apply(Checkpoint(folder, "transformers"), Path(output), StepContext())
    changes = detail["changes"]
    return [str(change) for change in changes] if isinstance(changes, list) else []


def cell(folder: Path, towers: list[str], axis: Axis) -> Cell:
    """Prune one axis of all towers at once or, where they cannot go together, of one after the other."""
    verdicts: set[str] = set()
    notes: list[str] = []
    try:
        changes = prune(folder, "all", axis, RATIOS[axis][0])
    except HfcompressError:
        changes = []
        for tower in towers:
            found, why = attempt(folder, tower, axis)
            changes += found
            notes += [f"{tower}: {short(why)}"] if why else []
    told = {note.partition(":")[0] for note in notes}
    for change in changes:
        tower, _, what = change.partition(": ")
        told.add(tower)
        if what.startswith("left as "):
            notes.append(f"{tower}: {short(what)}")
        else:
            verdicts.add("import" if "once hfcompress is imported" in what else "stock")
    missing = "goes with another tower" if axis == "width" else "has none"
    notes += [f"{tower}: {missing}" for tower in towers if tower not in told]
    return Cell(frozenset(verdicts), tuple(notes))


def attempt(folder: Path, tower: str, axis: Axis) -> tuple[list[str], str]:
    """Return what the step says of one tower, or why it cannot be pruned."""
    why = ""
    for ratio in RATIOS[axis]:
        try:
            return prune(folder, tower, axis, ratio), ""
        except HfcompressError as error:
            why = str(error)
    return [], why


def short(text: str) -> str:
    """Return the first clause of a message that says why, without what the table says anyway."""
    text = re.sub(r"left as \w+ as it is(: |, for )?", "", " ".join(text.split()))
    text = re.sub(r"the width of the tower '\w+' cannot change: ", "", text)
    text = re.sub(r"the tower '\w+' has no ([\w -]+?)(?: that can be removed)?;.*", r"has no \1", text)
    return re.split(r"; |\. | \(and \d+ more\)", text)[0].rstrip(".")


def row(name: str) -> dict[Axis, Cell]:
    """Prune every axis of a family."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = build(FAMILIES[name])
    towers = [tower.name for tower in tower_couplings(meta_model(model.config))]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = {axis: cell(Path(folder), towers, axis) for axis in RATIOS}
    print(f"{name}: done", file=sys.stderr, flush=True)  # noqa: T201 - a script says how far it is
    return found


def table(rows: dict[str, dict[Axis, Cell]]) -> str:
    """Return the Markdown table and its footnotes."""
    numbers: dict[str, int] = {}

    def text(one: Cell) -> str:
        notes = sorted({numbers.setdefault(note, len(numbers) + 1) for note in one.notes})
        marks = f" ({', '.join(map(str, notes))})" if notes else ""
        return (" / ".join(sorted(one.verdicts, reverse=True)) or "no") + marks

    lines = [
        f"| family | {' | '.join(f'`{axis}`' for axis in RATIOS)} |",
        f"| --- | {' | '.join('---' for _ in RATIOS)} |",
        *(f"| {TITLES[name]} | {' | '.join(map(text, found.values()))} |" for name, found in rows.items()),
    ]
    notes = [f"{number}. {re.sub(r'[*_<>|]', _escaped, note)}" for note, number in numbers.items()]
    return "\n".join([*lines, "", *notes])


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


def main() -> None:
    """Prune everything and write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file with the two markers")
    parser.add_argument("--jobs", type=int, default=2, help="families at once")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = dict(zip(TITLES, pool.map(row, TITLES), strict=True))
    made = f"With transformers {transformers.__version__}:\n\n{table(rows)}"
    if options.write is None:
        print(made)  # noqa: T201 - what a script is for
        return
    before, _, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    options.write.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
