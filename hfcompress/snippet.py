"""How an artifact is loaded: what to install, and code that runs as it stands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # public, but not in an `__all__`

from hfcompress.errors import RunError

if TYPE_CHECKING:
    from hfcompress.report import ArtifactRecord

__all__ = ["identifier", "install_command", "is_repo_id", "loading_requirements", "loading_snippet"]

INSTALLS = {
    "transformers": "pip install torch transformers pillow",
    "onnx": 'pip install "optimum-onnx[onnxruntime]" torch pillow',
    "openvino": 'pip install "optimum-intel[openvino]" torch pillow',
}
_TOWER = re.compile(r"((?:vision|audio|text)_model)(?:_\w+)?\.onnx", re.ASCII)
"""File of a tower that stands alone, and the name of what it holds."""
_TOWERS_RUN = [
    'images = vision_model(pixel_values=inputs["pixel_values"]).image_embeds',
    "texts = text_model(**{name: inputs[name] for name in text_model.input_names}).text_embeds",
    "cosines = images @ texts.T  # of unit vectors; the scale of the logits is only in the graph of the whole",
]


def is_repo_id(name: str) -> bool:
    """Whether a text can be the id of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def identifier(text: str | None) -> str | None:
    """Return the text where it can be one of the Hub's identifiers."""
    return text if text is not None and re.fullmatch(r"[\w.+-]+", text, re.ASCII) else None


def install_command(artifact: ArtifactRecord) -> str:
    """Return the command that installs what loading takes."""
    wanted = {_distribution(line): f'"{line}"' for line in artifact.requires}
    words = [wanted.pop(word, word) for word in INSTALLS[artifact.format].split(" ")]
    return " ".join([*words, *wanted.values(), *(["hfcompress"] if artifact.imports_hfcompress else [])])


def loading_requirements(artifact: ArtifactRecord) -> list[str]:
    """Return the names of the distributions that loading takes besides those that every checkpoint does."""
    usual = INSTALLS["transformers"].split()
    return [name for name in map(_distribution, artifact.requires) if name not in usual]


def _distribution(requirement: str) -> str:
    return re.split(r"[<>=!~ \[]", requirement, maxsplit=1)[0]


def loading_snippet(artifact: ArtifactRecord) -> str:
    """Return code that loads the artifact with the class a user would use and, for a task we know, runs it.

    Raises:
        RunError: The report names a class to load with that is no dotted Python name.
    """
    module, _, name = artifact.load_with.rpartition(".")
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", artifact.load_with, re.ASCII) is None:
        msg = f"artifact.load_with is {artifact.load_with!r}, not a dotted Python name"
        raise RunError(msg)
    on_hub = artifact.repo is not None and is_repo_id(artifact.repo)
    place = (
        f'model_id = "{artifact.repo}"  # or the folder of a local copy'
        if on_hub
        else 'model_id = "."  # the folder of this card'
    )
    graphs = [path.rpartition("/")[2] for path in artifact.files if path.endswith(".onnx")]
    whole = [graph for graph in graphs if graph.startswith("model") and identifier(graph)]
    graph = f', file_name="{whole[0]}"' if whole and whole[0] != "model.onnx" else ""
    towers = [] if whole else [found for graph in graphs if (found := _TOWER.fullmatch(graph))]
    stock = module == "transformers"
    imports = [f"from transformers import {', '.join(sorted(['AutoProcessor', *([name] if stock else [])]))}"]
    imports += [] if stock else [f"from {module} import {name}"]
    first = ["import hfcompress  # before loading: it makes the layers that no stock configuration says", ""]
    first = first if artifact.imports_hfcompress else []
    typed = ', dtype="auto"' if artifact.dtype else ""  # version 4 of transformers would load it in float32
    models = [f'{found[1]} = {name}.from_pretrained(model_id, file_name="{found[0]}")' for found in towers]
    models = models or [f"model = {name}.from_pretrained(model_id{graph}{typed})"]
    load = [place, *models, "processor = AutoProcessor.from_pretrained(model_id)"]
    if artifact.pipeline_tag != "zero-shot-image-classification":
        return "\n".join([*first, *sorted(imports), "", *load])
    indent = "    " if stock else ""
    logits = [f"{indent}logits = model(**inputs).logits_per_image"] if not towers else _TOWERS_RUN
    result, results = ("cosine", "cosines") if towers else ("probability", "logits.softmax(dim=-1)")
    run = [
        'image = Image.new("RGB", (224, 224), "white")  # your own: Image.open("picture.jpg").convert("RGB")',
        'labels = ["a photo of a cat", "a photo of a dog"]',
        'inputs = processor(text=labels, images=image, padding=True, return_tensors="pt")',
        *(['inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)'] if artifact.dtype else []),
        *(["with torch.inference_mode():"] if stock else []),
        *logits,
        f"for label, {result} in zip(labels, {results}[0].tolist()):",
        f'    print(f"{{label}}: {{{result}:.3f}}")',
    ]
    imports += ["from PIL import Image"]
    return "\n".join([*first, *(["import torch"] if stock else []), *sorted(imports), "", *load, "", *run])
