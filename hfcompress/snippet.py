"""How an artifact is loaded: what to install, and code that runs as it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
    ran = _run(artifact, name, is_torch=stock, is_towers=bool(towers))
    if ran is None:
        return "\n".join([*first, *sorted(imports), "", *load])
    imports += ran.imports
    head = [*(["import numpy as np"] if ran.hears else []), *(["import torch"] if stock else []), *sorted(imports)]
    return "\n".join([*first, *head, "", *load, "", *ran.lines])


@dataclass(frozen=True)
class _Run:
    """Lines that run a model, and what they import."""

    lines: list[str]
    imports: list[str]
    hears: bool = False


_IMAGE = 'image = Image.new("RGB", (224, 224), "white")  # your own: Image.open("picture.jpg").convert("RGB")'
_SOUND = [
    "rate = processor.feature_extractor.sampling_rate",
    "sound = np.zeros(rate, dtype=np.float32)  # one second of silence; your own: samples of one channel at that rate",
]
_HEARD = 'processor.feature_extractor(sound, sampling_rate=rate, return_tensors="pt")'
_PRINTED = [
    "for label, probability in zip(labels, logits.softmax(dim=-1)[0].tolist()):",
    '    print(f"{label}: {probability:.3f}")',
]
_PRINTED_COSINES = [
    "for label, cosine in zip(labels, cosines[0].tolist()):",
    '    print(f"{label}: {cosine:.3f}")',
]
_IMPORT_IMAGE = ["from PIL import Image"]


def _run(artifact: ArtifactRecord, name: str, *, is_torch: bool, is_towers: bool) -> _Run | None:
    """Return code that runs a loaded model on an example of its task, `None` for a task that we do not know."""
    cast = is_torch and artifact.dtype is not None
    if artifact.pipeline_tag in {"zero-shot-image-classification", "image-text-retrieval"}:
        return _Run(_matched_image(cast=cast, is_torch=is_torch, is_towers=is_towers), _IMPORT_IMAGE)
    if artifact.pipeline_tag == "zero-shot-audio-classification":
        return _Run(_matched_sound(cast=cast, is_torch=is_torch, is_towers=is_towers), [], hears=True)
    if artifact.pipeline_tag == "automatic-speech-recognition":
        return _Run(_transcribed(name, cast=cast, is_torch=is_torch), [], hears=True)
    chats = any(path.startswith("chat_template.") for path in artifact.files)
    if artifact.pipeline_tag == "image-to-text":
        return _Run(_written("Describe this image." if chats else None, chats=chats, cast=cast), _IMPORT_IMAGE)
    if artifact.pipeline_tag == "visual-question-answering":
        return _Run(_written("What is in this image?", chats=chats, cast=cast), _IMPORT_IMAGE)
    return None


def _without_gradients(lines: list[str], *, is_torch: bool) -> list[str]:
    return ["with torch.inference_mode():", *(f"    {line}" for line in lines)] if is_torch else lines


def _matched_image(*, cast: bool, is_torch: bool, is_towers: bool) -> list[str]:
    return [
        _IMAGE,
        'labels = ["a photo of a cat", "a photo of a dog"]',
        'inputs = processor(text=labels, images=image, padding=True, return_tensors="pt")',
        *(['inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)'] if cast else []),
        *(
            [*_TOWERS_RUN, *_PRINTED_COSINES]
            if is_towers
            else [*_without_gradients(["logits = model(**inputs).logits_per_image"], is_torch=is_torch), *_PRINTED]
        ),
    ]


def _matched_sound(*, cast: bool, is_torch: bool, is_towers: bool) -> list[str]:
    if is_towers:
        return [
            *_SOUND,
            'labels = ["a dog barks", "it rains"]',
            f"heard = {_HEARD}",
            'words = processor.tokenizer(labels, padding=True, return_tensors="pt")',
            'sounds = audio_model(**{name: heard[name] for name in audio_model.input_names})["audio_embeds"]',
            'texts = text_model(**{name: words[name] for name in text_model.input_names})["text_embeds"]',
            "cosines = sounds @ texts.T  # of unit vectors; the scale of the logits is only in the graph of the whole",
            *_PRINTED_COSINES,
        ]
    logits = "logits = model(**inputs).logits_per_audio" if is_torch else 'logits = model(**inputs)["logits_per_audio"]'
    return [
        *_SOUND,
        'labels = ["a dog barks", "it rains"]',
        'inputs = processor.tokenizer(labels, padding=True, return_tensors="pt")',
        f"inputs.update({_HEARD})",
        *(['inputs["input_features"] = inputs["input_features"].to(model.dtype)'] if cast else []),
        *_without_gradients([logits], is_torch=is_torch),
        *_PRINTED,
    ]


def _transcribed(name: str, *, cast: bool, is_torch: bool) -> list[str]:
    inputs = [*_SOUND, f"inputs = {_HEARD}", *(["inputs = inputs.to(dtype=model.dtype)"] if cast else [])]
    if name.endswith("ForCTC"):
        tokens = ["tokens = model(**inputs).logits.argmax(dim=-1)"]
        return [*inputs, *_without_gradients(tokens, is_torch=is_torch), "print(processor.batch_decode(tokens)[0])"]
    return [
        *inputs,
        "tokens = model.generate(**inputs)",
        "print(processor.batch_decode(tokens, skip_special_tokens=True)[0])",
    ]


def _written(question: str | None, *, chats: bool, cast: bool) -> list[str]:
    """Return code that has a model write about an image; in a conversation, where its processor knows one."""
    words = "" if question is None else f', text="{question}"'
    inputs = [f'inputs = processor(images=image{words}, return_tensors="pt")']
    if chats:
        inputs = [
            f'content = [{{"type": "image", "image": image}}, {{"type": "text", "text": "{question}"}}]',
            "inputs = processor.apply_chat_template(",
            '    [{"role": "user", "content": content}],',
            '    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",',
            ")",
        ]
    return [
        _IMAGE,
        *inputs,
        *(['inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)'] if cast else []),
        "tokens = model.generate(**inputs, max_new_tokens=20)",
        *(['tokens = tokens[:, inputs["input_ids"].shape[1] :]  # without the question'] if chats else []),
        "print(processor.batch_decode(tokens, skip_special_tokens=True)[0])",
    ]
