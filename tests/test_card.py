"""What the model card promises: the report's numbers and nothing else, in a form that nothing can break out of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from markdown_it import MarkdownIt

from hfcompress.canvas import Picture
from hfcompress.card import card_metadata, code, plain, render_card
from hfcompress.contracts import Measurement, StepRecord, Value
from hfcompress.cost_details import CostDetails, TowerFlops, Unmeasured
from hfcompress.errors import RunError
from hfcompress.report import ArtifactRecord, CardRecord, GateResult, RecipeRecord, Report, SourceRecord

if TYPE_CHECKING:
    from pathlib import Path

    from markdown_it.token import Token

SHA = "0b2714987fa478483af9968de7c934580d0bb9a2"
HOSTILE = (
    "x\r\n---\nevil: 1\n---\n# Owned\n\n<script>alert(1)</script> <img src=x> [a](javascript:b) ![i](http://e.vil/i) "
    "`c` | $$d$$ **e** https://e.vil/"
)
SECTIONS = [
    "Size and speed",
    "Quality",
    "How to use it",
    "What was done",
    "Gates",
    "How it was measured",
    "Limits",
    "Reproduce it",
]
ONNX = ArtifactRecord(
    ".",
    "onnx",
    {"config.json": 900, "onnx/model_quantized.onnx": 1049874},
    "optimum.onnxruntime.ORTModelForZeroShotImageClassification",
    "zero-shot-image-classification",
    "CLIPModel",
    "me/clip-small",
)
TORCH = ArtifactRecord(
    ".", "transformers", {"model.safetensors": 9}, "transformers.CLIPModel", "zero-shot-image-classification"
)


def quality(text: str | None = None) -> tuple[Measurement, ...]:
    """Return an accuracy and a fidelity; `text` stands for everything that comes from outside."""
    task, dataset, split = text or "zero-shot-image-classification", text or "uoft-cs/cifar10", text or "test"
    rows = (
        ("zero_shot_accuracy", text or "top-1 accuracy", "ratio", Value(0.96852, 0.9501, 0.9803), Value(0.97222)),
        ("embedding_cosine_image", "image cosine", "cosine", Value(0.99871, 0.9981, 0.9991), None),
    )
    return tuple(
        Measurement(
            name,
            label,
            unit,
            higher_is_better=True,
            compressed=compressed,
            source=source,
            n=540,
            task=task,
            dataset=dataset,
            revision=text or SHA,
            split=split,
        )
        for name, label, unit, compressed, source in rows
    )


def costs(latency_ms: float) -> tuple[Measurement, ...]:
    """Return size and latency."""
    size, published, source = Value(1049874), Value(4100000), Value(4103224)
    return (
        Measurement("size_bytes", "size", "bytes", higher_is_better=False, compressed=size, source=source),
        Measurement(
            "latency_ms",
            "latency",
            "ms",
            higher_is_better=False,
            compressed=Value(latency_ms),
            source=Value(4.95, 4.71, 5.32),
            as_published=Value(published.value / 1e6),
            n=200,
        ),
    )


def report(text: str | None = None, *, latency_ms: float = 3.81, **changed: object) -> Report:
    """Return a full report; `text` stands for everything that comes from outside."""
    detail = {
        "importance": text or "magnitude",
        "towers": {text or "vision": {"ffn": {"before": 512, "after": 208}}},
        "proof_max_difference": 1.1920929e-07,
        "kept": [text or "a", 208],
    }
    parts = {
        "source": SourceRecord(text or "openai/clip", text or SHA, on_hub=text is None, license=text or "mit"),
        "recipe": RecipeRecord.of(f"version: 1\n# {text or ''}\n```\n# not a heading\n"),
        "steps": (
            StepRecord("prune", 12.31, cached=False, detail=detail),  # type: ignore[arg-type]
            StepRecord(text or "quantize", 3.2, cached=True, detail={text or "mode": None, "per_channel": True}),
        ),
        "measurements": quality(text) + costs(latency_ms),
        "gates": (GateResult(text or "size_bytes", "min_ratio 3.5", held=True, got=3.9, detail=text or "It holds."),),
        "artifact": ONNX,
        "environment": {"hfcompress": "0.1.0", "torch": "2.13.0+cpu", "cpu": text or "Some CPU", "threads": 2},
    }
    return Report(**(parts | changed))  # type: ignore[arg-type]


def body(text: str) -> str:
    """Return a card without its front matter."""
    return text.split("\n---\n", 1)[1]


def tokens(markdown: str) -> list[Token]:
    """Return what a reader's Markdown renderer makes of the text, HTML included, blocks and inlines alike."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    return blocks + [inline for block in blocks for inline in block.children or []]


def unexplained(card: str, found: Report) -> list[str]:
    """Return the numbers in the card's prose and tables that are no rounding of a number of the report."""
    prose = re.sub(r"^```.*?^```$", "", body(card), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|^\d+\. |95 % intervals|8-bit|^- Versions.*$", "", prose, flags=re.MULTILINE)
    known = [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", found.to_json())]
    forms = {scale * number for number in known for scale in (1, 100, 1e-3, 1e-6, 1e-9)}
    forms |= {1 / number for number in known if number}  # a factor below 1 is told as "1.2 times slower"
    return [
        token
        for token in re.findall(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?!\w)", prose)
        if not any(rounds_to(form, token.replace(",", "")) for form in forms)
    ]


def rounds_to(number: float, token: str) -> bool:
    """Whether a token is the number, rounded to the digits that the token has."""
    mantissa, _, exponent = token.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(number - float(token)) <= 0.501 * 10.0 ** (int(exponent or 0) - digits)


@pytest.mark.parametrize("latency_ms", [3.81, 5.9])
def test_numbers(latency_ms: float) -> None:
    """Every number of the card is one of the report's, rounded."""
    found = report(latency_ms=latency_ms)
    assert unexplained(render_card(found, []), found) == []


def test_numbers_are_looked_at() -> None:
    """The check above sees a number that the report does not hold."""
    found = report()
    assert unexplained(render_card(found, []).replace("96.9", "98.7"), found) == ["98.7", "98.7"]


@pytest.mark.parametrize(
    ("latency_ms", "sentence"),
    [
        (3.81, "**3.9\u00d7 smaller and 1.3\u00d7 faster** than the float32 ONNX export of"),
        (5.9, "**3.9\u00d7 smaller but 1.2\u00d7 slower** than the float32 ONNX export of"),
        (4.95, "**3.9\u00d7 smaller but no faster** than the float32 ONNX export of"),
    ],
)
def test_headline(latency_ms: float, sentence: str) -> None:
    """The first sentence says what was won and what was lost, and on what machine and rows."""
    first = body(render_card(report(latency_ms=latency_ms), [])).split("\n\n")[1]
    ending = "on Some CPU with 2 threads; top-1 accuracy 97.2\u00a0% → 96.9\u00a0% (n = 540). Made with hfcompress."
    assert f"{sentence} [`openai/clip`](https://huggingface.co/openai/clip) {ending}" == first


def test_costs_beside_the_first_table() -> None:
    """What few look for comes after the quality, and what was not measured is said there, with the reason."""
    details = CostDetails({}, {}, 64, (TowerFlops("vision", 7200, 3600),), (Unmeasured("parameters", "no <b>"),))
    p90 = replace(costs(3.81)[1], name="latency_p90_ms", label="latency, p90")
    found = report(measurements=(*quality(), *costs(3.81), p90), cost_details=details)
    card = render_card(found, [])
    first, _, rest = body(card).partition("## How it was measured")

    assert "| latency (n = 200) |" in first
    assert "p90" not in first
    assert "| latency, p90 (n = 200) |" in rest
    assert "| FLOPs, vision | \u2013 | 7.20\u00a0k | **3.60\u00a0k** | 2.0\u00d7 fewer |" in rest
    assert "- Not measured: parameters: no &#60;b&#62;.\n" in rest
    assert "texts of 64 tokens" in rest
    assert unexplained(card.replace("&#60;b&#62;", ""), found) == []


def test_failed_gate_first() -> None:
    """A gate that does not hold is told before anything is praised."""
    failed = GateResult("latency_ms", "min_ratio 1", held=False, got=0.8, detail="It is slower.")
    _, warning, *_ = body(render_card(report(gates=(failed,)), [])).strip().split("\n\n")
    expected = "> **Not every gate of the recipe holds.**\n>\n> - `latency_ms: min_ratio 1`: It is slower."
    assert expected == warning


def test_no_quality() -> None:
    """A model whose quality nobody measured is said to be one."""
    card = render_card(report(measurements=costs(3.81)), [])
    assert "**The quality of this model was not measured:**" in card
    assert "eval_results" not in card_metadata(report(measurements=costs(3.81))).to_dict()


def test_front_matter(tmp_path: Path) -> None:
    """The Hub's own client reads the front matter back as it was meant."""
    text = render_card(report(), [])
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    expected = card_metadata(report()).to_dict()
    assert (expected, expected) == (ModelCard(text).data.to_dict(), metadata_load(path))


def test_metadata() -> None:
    """The front matter names base, license, task, tags and this run's score, by the Hub's own identifiers."""
    expected = {
        "base_model": "openai/clip",
        "base_model_relation": "quantized",
        "library_name": "optimum",
        "license": "mit",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["hfcompress", "pruned", "quantized", "onnx", "transformers.js"],
    }
    found = card_metadata(report()).to_dict()
    (index,) = found.pop("model-index")
    assert expected == found
    (result,) = index["results"]
    assert result["dataset"] == {
        "name": "uoft-cs/cifar10",
        "type": "uoft-cs/cifar10",
        "split": "test",
        "revision": SHA,
    }
    assert result["metrics"] == [{"type": "accuracy", "value": 0.96852, "name": "top-1 accuracy"}]


def test_pruned_only() -> None:
    """A pruned transformers checkpoint is a finetune of its base, the Hub having no nearer word."""
    found = card_metadata(report(artifact=TORCH, steps=(StepRecord("prune", 1.0, cached=False, detail={}),))).to_dict()
    keys = ("base_model_relation", "library_name", "tags")
    assert [found[key] for key in keys] == ["finetune", "transformers", ["hfcompress", "pruned"]]


def test_local_source() -> None:
    """A local source and local data are nobody's base model and no dataset of the Hub."""
    source = SourceRecord("model", "3f2a", on_hub=False)
    step = StepRecord("quantize", 1.0, cached=False, detail={"calibration": {"dataset": "data", "revision": "3f2a"}})
    found = card_metadata(report(source=source, steps=(step,))).to_dict()
    assert not {"base_model", "base_model_relation", "datasets", "license"} & found.keys()


def test_calibration_datasets() -> None:
    """`datasets`, which the Hub shows as trained on, names what a step was calibrated with, not what was evaluated."""
    step = StepRecord("quantize", 1.0, cached=False, detail={"calibration": {"dataset": "a/flickr", "revision": SHA}})
    assert card_metadata(report(steps=(step,))).to_dict()["datasets"] == ["a/flickr"]


def test_hostile_front_matter() -> None:
    """Text from outside adds no key to the front matter and does not end it."""
    text = render_card(report(HOSTILE), [])
    found = ModelCard(text)
    assert card_metadata(report(HOSTILE)).to_dict() == found.data.to_dict()
    assert not {"evil", "license", "base_model", "datasets"} & found.data.to_dict().keys()


def test_hostile_body() -> None:
    """Text from outside makes no heading, HTML, link, picture or row of its own."""
    picture = Picture("assets/a.png", HOSTILE)
    kinds, links, pictures, headings = [], set(), [], []
    found = tokens(body(render_card(report(HOSTILE), [picture])))
    for place, token in enumerate(found):
        kinds.append(token.type)
        if token.type == "link_open":
            links.add(token.attrs["href"])
        if token.type == "image":
            pictures.append(token.attrs["src"])
        if token.type == "heading_open":
            headings.append((token.tag, found[place + 1].content))
    harmless = tokens(body(render_card(report(), [picture])))
    assert not {"html_block", "html_inline"} & set(kinds)
    assert (links, pictures) == (set(), ["assets/a.png"])
    assert [("h1", "clip-small"), *(("h2", name) for name in SECTIONS)] == headings
    assert kinds.count("td_open") == [token.type for token in harmless].count("td_open")


@pytest.mark.parametrize("text", [HOSTILE, "1. a", "- a", "a_b _c_ d", "``` a `", "Intel(R) CPU @ 2.00GHz", "1.5", "#"])
def test_shown_as_it_is(text: str) -> None:
    """Escaped text reads as it was written, on one line."""
    for escaped in (plain(text), code(text)):
        leaves = [token.content for token in tokens(escaped) if token.type in {"text", "code_inline", "text_special"}]
        assert " ".join(text.split()) == "".join(leaves)


def test_no_formula() -> None:
    """What the Hub typesets before it reads Markdown does not come through."""
    assert not re.search(r"\$\$|\\\\\(", plain(r"$$a$$ \\(b\\)"))


@pytest.mark.parametrize("artifact", [ONNX, TORCH])
def test_snippet(artifact: ArtifactRecord) -> None:
    """The loading snippet is Python, with the class that the report names."""
    blocks = {token.info: token.content for token in tokens(body(render_card(report(artifact=artifact), [])))}
    compile(blocks["python"], "snippet", "exec")
    name = artifact.load_with.rpartition(".")[2]
    graph = ', file_name="model_quantized.onnx"' if artifact is ONNX else ""
    assert f"model = {name}.from_pretrained(model_id{graph})" in blocks["python"]
    assert f'model_id = "{artifact.repo or "."}"' in blocks["python"]


def test_snippet_of_recorded_shapes() -> None:
    """Where no stock configuration says the shapes, the snippet imports hfcompress first, and the card says why."""
    card = render_card(report(artifact=replace(TORCH, imports_hfcompress=True)), [])
    blocks = {token.info: token.content for token in tokens(body(card))}
    assert blocks["python"].startswith("import hfcompress  # before loading")
    assert "pip install torch transformers pillow hfcompress" in card
    assert "shapes that no stock configuration says" in card
    assert "import hfcompress" not in render_card(report(artifact=TORCH), [])


def test_step_detail() -> None:
    """A step's detail is listed leaf by leaf, whatever its shape."""
    detail = {
        "towers": {"vision": {"ffn": {"before": 512, "after": 208}}},
        "graphs": {"onnx/model.onnx": {"float_nodes": 12}},
        "config_edits": ["vision_config.intermediate_size 512 → 208", "text_config.layers 4 → 3"],
        "left_in_float": ["/MatMul_1", "/Gemm"],
        "layers": [{"name": f"layers.{layer}.fc1", "axis": "ffn", "before": 512, "after": 208} for layer in range(2)],
        "proof_max_difference": 1.1920929e-07,
        "per_channel": True,
        "calibration": None,
        "importance": "magnitude",
    }
    found = report(steps=(StepRecord("prune", 12.31, cached=False, detail=detail),))  # type: ignore[arg-type]
    (steps,) = re.findall(r"## What was done\n\n(.*?)\n\n## Gates", render_card(found, []), re.DOTALL)
    expected = """1. `prune` (took 12.3\u00a0s)

   - towers, vision, ffn: 512 → 208
   - graphs, `onnx/model.onnx`, float nodes: 12
   - config edits: vision_config.intermediate_size 512 → 208
   - config edits: text_config.layers 4 → 3
   - left in float: `/MatMul_1`, `/Gemm`
   - layers: name `layers.0.fc1`, axis `ffn`: 512 → 208; name `layers.1.fc1`, axis `ffn`: 512 → 208
   - proof max difference: 1.192e-07
   - per channel: yes
   - calibration: none
   - importance: `magnitude`"""
    assert expected == steps


def test_load_with_no_code() -> None:
    """A class name that is more than a name does not reach the snippet."""
    with pytest.raises(RunError, match="not a dotted Python name"):
        render_card(report(artifact=ArtifactRecord(".", "onnx", {}, "os;system.x")), [])


def test_recipe_in_full() -> None:
    """The recipe stands in the card to the letter, though it holds a code fence itself."""
    found = report()
    (block,) = (token for token in tokens(body(render_card(found, []))) if token.info == "yaml")
    assert found.recipe.text == block.content


def test_same_from_file() -> None:
    """The card needs nothing that `report.json` does not hold."""
    found = report()
    assert render_card(found, []) == render_card(Report.from_json(json.dumps(json.loads(found.to_json()))), [])


def test_within_noise() -> None:
    """Where the paired interval of a difference holds 0, headline and table say that the change is within noise."""
    score, *rest = quality()
    inside = replace(score, difference=Value(-0.0037, -0.0113, 0.0038))
    outside = replace(score, difference=Value(-0.0037, -0.0113, -0.0001))
    cards = [body(render_card(report(measurements=(row, *rest, *costs(3.81))), [])) for row in (inside, outside)]

    assert "top-1 accuracy 97.2\u00a0% → 96.9\u00a0% (within noise, n = 540). Made with" in cards[0]
    assert "| \u22120.37\u00a0points [\u22121.13,\u00a0+0.38], within noise |" in cards[0]
    assert "A change is within noise where" in cards[0]
    assert "| \u22120.37\u00a0points [\u22121.13,\u00a0\u22120.01] |" in cards[1]
    assert "within noise" not in cards[1]


def test_ids_of_metrics() -> None:
    """The Hub knows the measures by its own ids, and their names tell those of one id apart."""
    score, _ = quality()
    names = ("zero_shot_top5_accuracy", "word_error_rate", "rouge_l", "image_to_text_recall_at_5", "bleu", "anls")
    rows = tuple(replace(score, name=name, label=name) for name in names)
    (index,) = card_metadata(report(measurements=rows)).to_dict()["model-index"]
    found = [metric["type"] for metric in index["results"][0]["metrics"]]
    assert found == ["accuracy", "wer", "rouge", "recall_at_5", "bleu", "anls"]


def test_pipeline_of_the_hub() -> None:
    """A model whose retrieval was measured is found on the Hub under a task that the Hub has."""
    found = card_metadata(report(artifact=replace(ONNX, pipeline_tag="image-text-retrieval")))
    assert found.pipeline_tag == "zero-shot-image-classification"


def test_words_of_the_author() -> None:
    """The author's Markdown stands in a section of its own, as it was written; it does not touch the front matter."""
    text = "---\nlicense: gpl-3.0\n---\n\nFor **birds** only, see [here](https://example.org).\n"
    found = report(card=CardRecord(text, ("birds", "onnx")))
    card = render_card(found, [])
    bare = card_metadata(report()).to_dict()

    assert f"## About this model\n\n{text}\n## How to use it" in card
    assert ModelCard(card).data.to_dict() == {**bare, "tags": [*bare["tags"], "birds"]}
    assert "About this model" not in render_card(report(), [])


@pytest.mark.parametrize(
    ("license_id", "said"),
    [("cc-by-nd-4.0", "(cc-by-nd-4.0) forbids derivatives"), (None, "names no license")],
)
def test_license_that_forbids(license_id: str | None, said: str) -> None:
    """What speaks against passing the model on stands among the limits, in bold."""
    source = SourceRecord("openai/clip", SHA, on_hub=True, license=license_id)
    (line,) = (line for line in render_card(report(source=source), []).splitlines() if said in line)
    assert "**The source's" in line
