"""Promises of `hfcompress.recipe`: what it refuses, in which words, and what it gives."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hfcompress.contracts import Step
from hfcompress.errors import Problem, RecipeError
from hfcompress.recipe import Gate, load_recipe
from hfcompress.registry import IMPORTANCES, QUANTIZERS, STEPS, TASKS
from tests.recipe_files import problem_lines, written_and_loaded

if TYPE_CHECKING:
    from pathlib import Path

H = "version: 1\nmodel: {id: me/clip}\n"
S = "steps: [{use: round-weights}]\n"
D = "data:\n  photos: {dataset: me/photos, split: test, columns: {image: img, label: label}}\n"
E = "evaluate: [{task: zero-shot-image-classification, data: photos}]\n"
STATIC = "steps:\n  - {use: quantize, runtime: onnxruntime, mode: static, calibration: rows}\n"
DYNAMIC = "steps:\n  - {use: quantize, runtime: onnxruntime, mode: dynamic}\n"
KEYS = "include, version, model, data, steps, evaluate, gates, benchmark, card, push, seed"

BAD = [
    # shapes
    pytest.param(
        "{}\n",
        [
            "1:1: version: missing; expected 1",
            "1:1: model: missing; expected a mapping with the keys id, revision, trust_remote_code, allow_pickle",
            "1:1: steps: missing; expected a list of at least 1 item",
        ],
        id="everything missing",
    ),
    pytest.param("version: 2\nmodel: {id: me/clip}\n" + S, ["1:1: version: got 2, expected 1"], id="version"),
    pytest.param(
        "version: '1'\nmodel: {id: me/clip}\n" + S,
        ["1:1: version: got '1', expected 1; write it without quotes"],
        id="version as text",
    ),
    pytest.param(
        "version: 1\nmodel: me/clip\n" + S,
        ["2:1: model: got 'me/clip', expected a mapping with the keys id, revision, trust_remote_code, allow_pickle"],
        id="model as text",
    ),
    pytest.param(
        "version: 1\nmodel:\n" + S,
        ["2:1: model: got null, expected a mapping with the keys id, revision, trust_remote_code, allow_pickle"],
        id="model empty",
    ),
    pytest.param(
        H + S + "step: []\n",
        ["4:1: step: unknown key 'step' (did you mean 'steps'?); known keys: <recipe>"],
        id="unknown key on top",
    ),
    pytest.param(
        H + S + "includes: a.yaml\n",
        ["4:1: includes: unknown key 'includes' (did you mean 'include'?); known keys: <recipe>"],
        id="includes",
    ),
    pytest.param(
        H + S + "zzz: 1\n", ["4:1: zzz: unknown key 'zzz'; known keys: <recipe>"], id="unknown key, nothing near"
    ),
    pytest.param(
        "version: 1\nmodel: {id: me/clip, revison: main}\n" + S,
        [
            (
                "2:22: model.revison: unknown key 'revison' (did you mean 'revision'?); known keys: id, revision, "
                "trust_remote_code, allow_pickle"
            )
        ],
        id="unknown key, nested",
    ),
    pytest.param(
        H + "steps:\n  - use: round-weights\n    bit: 7\n",
        ["5:5: steps[0].bit: unknown key 'bit' (did you mean 'bits'?); known keys: use, bits"],
        id="unknown option",
    ),
    pytest.param(
        H + "steps:\n  - use: prune\n    towers:\n      vision: {ffn: 1.5}\n",
        ["6:16: steps[0].towers.vision.ffn: got 1.5, expected a number in [0, 1) or null"],
        id="ratio",
    ),
    pytest.param(
        H + "steps:\n  - use: prune\n    towers:\n      vision: {ffn: off}\n",
        ["6:16: steps[0].towers.vision.ffn: got false, expected a number in [0, 1) or null"],
        id="ratio as a boolean",
    ),
    pytest.param(
        H + "steps:\n  - use: quantize\n    runtime: onnxruntime\n",
        ["4:5: steps[0].mode: missing; expected one of 'dynamic', 'static', 'weight_only'"],
        id="choice missing",
    ),
    pytest.param(
        H + "steps: [{use: round-weights, bits: 7.5}]\n",
        ["3:30: steps[0].bits: got 7.5, expected an integer in [1, 22]"],
        id="integer as float",
    ),
    pytest.param(
        H + "steps: [{use: round-weights, bits: '7'}]\n",
        ["3:30: steps[0].bits: got '7', expected an integer in [1, 22]; write it without quotes"],
        id="integer as text",
    ),
    pytest.param(
        H + S + "gates: {size_bytes: {min_ratio: .nan}}\n",
        ["4:22: gates.size_bytes.min_ratio: got nan, expected a number above 0 or null"],
        id="not a number",
    ),
    pytest.param(
        H + S + "push: {repo: me/clip, message: no}\n",
        [
            (
                "4:23: push.message: got false, expected text or null; YAML reads yes, no, on and off as "
                "true or false: put it in quotes"
            ),
        ],
        id="text that YAML reads as boolean",
    ),
    pytest.param(
        "version: 1\nmodel: {id: me/clip, revision: 12e4567}\n" + S,
        ["2:22: model.revision: got inf, expected text; put it in quotes"],
        id="text that YAML reads as number",
    ),
    pytest.param(
        H + S + "push: {repo: me/clip, private: 'true'}\n",
        ["4:23: push.private: got 'true', expected true or false"],
        id="boolean as text",
    ),
    pytest.param(
        H + "steps: []\n", ["3:1: steps: got an empty list, expected a list of at least 1 item"], id="steps empty"
    ),
    pytest.param(
        H + "steps: {use: round-weights}\n",
        ["3:1: steps: got a mapping, expected a list of at least 1 item"],
        id="steps as mapping",
    ),
    pytest.param(
        H + "steps: [round-weights]\n",
        ["3:9: steps[0]: got 'round-weights', expected a mapping with the key use"],
        id="step as text",
    ),
    pytest.param(
        H + "steps: [{bits: 7}]\n",
        ["3:9: steps[0].use: missing; expected the name of a step: <steps>"],
        id="step without use",
    ),
    pytest.param(
        H + "steps: [{use: 7}]\n",
        ["3:10: steps[0].use: got 7, expected the name of a step: <steps>"],
        id="step use a number",
    ),
    pytest.param(
        H + "steps: [{use: round-weight}]\n",
        ["3:10: steps[0].use: there is no step 'round-weight' (did you mean 'round-weights'?); known: <steps>"],
        id="unknown step",
    ),
    pytest.param(
        H + S + D + "evaluate: [{task: zero-shot-image-clasification, data: photos}]\n",
        [
            (
                "6:13: evaluate[0].task: there is no task 'zero-shot-image-clasification' (did you mean "
                "'zero-shot-image-classification'?); known: <tasks>"
            ),
        ],
        id="unknown task",
    ),
    pytest.param(
        H + "steps: [{use: quantize, runtime: onnxruntim, mode: dynamic}]\n",
        [
            (
                "3:25: steps[0].runtime: there is no quantizer 'onnxruntim' (did you mean "
                "'onnxruntime'?); known: <quantizers>"
            ),
        ],
        id="unknown runtime",
    ),
    pytest.param(
        H + "steps:\n  - use: prune\n    towers: {all: {ffn: 0.5}}\n    importance: magnitud\n",
        [
            (
                "6:5: steps[0].importance: there is no importance 'magnitud' (did you mean 'magnitude'?);"
                " known: <importances>"
            ),
        ],
        id="unknown importance",
    ),
    pytest.param(
        H + "steps: [{use: quantize, runtime: onnxruntime, mode: dinamic}]\n",
        [
            (
                "3:47: steps[0].mode: got 'dinamic', expected one of 'dynamic', 'static', 'weight_only' "
                "(did you mean 'dynamic'?)"
            ),
        ],
        id="choice",
    ),
    pytest.param(
        H + "steps: [{use: quantize, runtime: onnxruntime, mode: static}]\n",
        ["3:9: steps[0]: `mode: static` needs `calibration`, the name of an entry of `data`"],
        id="options that contradict",
    ),
    pytest.param(
        H + S + "gates: {size_bytes: {}}\n",
        ["4:9: gates.size_bytes: sets no limit; expected at least one of max_drop, min_ratio, min_value, max_value"],
        id="gate without a limit",
    ),
    pytest.param(
        H + S + D + E + "gates: {zero_shot_accuracy: {max_drop: -0.1}}\n",
        ["7:30: gates.zero_shot_accuracy.max_drop: got -0.1, expected a number of at least 0 or null"],
        id="gate below zero",
    ),
    pytest.param(
        H + S + "gates: {size_bytes: {min_value: 2, max_value: 1}}\n",
        ["4:9: gates.size_bytes: min_value 2 is above max_value 1, so nothing can hold it"],
        id="gate that nothing can hold",
    ),
    pytest.param(
        H + S + "push: {repo: me/clip/small}\n",
        ["4:8: push.repo: got 'me/clip/small', expected the id of a Hub repository, as in owner/name"],
        id="push repo",
    ),
    pytest.param(
        "version: 1\nmodel: {}\nsteps:\n  - use: round-weights\n    bits: 99\n  - use: nothing-like-it\n"
        "seed: -1\ngates: {size_bytes: []}\n",
        [
            "2:1: model.id: missing; expected text",
            "5:5: steps[0].bits: got 99, expected an integer in [1, 22]",
            "6:5: steps[1].use: there is no step 'nothing-like-it'; known: <steps>",
            "7:1: seed: got -1, expected an integer in [0, 4294967296)",
            (
                "8:9: gates.size_bytes: got an empty list, expected a mapping with the keys max_drop, "
                "min_ratio, min_value, max_value or null"
            ),
        ],
        id="several at once",
    ),
    # cross
    pytest.param(
        H + S + D + "evaluate: [{task: zero-shot-image-classification, data: photo}]\n",
        ["6:51: evaluate[0].data: `data` has no entry 'photo' (did you mean 'photos'?); known: photos"],
        id="data unknown",
    ),
    pytest.param(
        H + S + E,
        ["4:51: evaluate[0].data: `data` has no entry 'photos'; `data` is empty"],
        id="data missing altogether",
    ),
    pytest.param(
        H + STATIC,
        ["4:57: steps[0].calibration: `data` has no entry 'rows'; `data` is empty"],
        id="calibration unknown",
    ),
    pytest.param(
        H + S + D,
        ["5:3: data.photos: nothing uses it; name it in a step's `calibration` or a task's `data`, or remove it"],
        id="data unused",
    ),
    pytest.param(
        H + STATIC + D + "  rows: {dataset: me/photos, split: test}\n" + E,
        [
            (
                "8:51: evaluate[0].data: evaluates on the rows that steps[0] calibrates on (test of "
                "me/photos); expected other rows"
            ),
        ],
        id="same rows twice",
    ),
    pytest.param(
        H + DYNAMIC + "  - use: round-weights\n",
        ["5:5: steps[1]: 'round-weights' takes transformers, but 'quantize' (steps[0]) gives onnx"],
        id="chain",
    ),
    pytest.param(
        H + S + "data:\n  photos: {dataset: me/photos, split: test, columns: {image: img}}\n" + E,
        ["5:45: data.photos.columns: the task 'zero-shot-image-classification' needs the column 'label'; got image"],
        id="columns",
    ),
    pytest.param(
        H + S + "gates: {size_byte: {min_ratio: 2}}\n",
        [
            (
                "4:9: gates.size_byte: this recipe measures no 'size_byte' (did you mean 'size_bytes'?); "
                "known: size_bytes, parameters, flops, latency_ms, latency_p90_ms, throughput_per_s, "
                "peak_memory_bytes, model_memory_bytes"
            ),
        ],
        id="gate on nothing",
    ),
    pytest.param(
        H + S + "gates: {size_bytes: {max_drop: 0.1}}\n",
        [
            (
                "4:22: gates.size_bytes.max_drop: size_bytes is a cost, not a score; expected min_ratio "
                "(times better than the source) or max_value"
            ),
        ],
        id="drop of a cost",
    ),
    pytest.param(
        H + S + D + E + "gates: {zero_shot_accuracy: {min_ratio: 1}}\n",
        [
            (
                "7:30: gates.zero_shot_accuracy.min_ratio: only size_bytes, parameters, flops, latency_ms, "
                "latency_p90_ms, throughput_per_s, peak_memory_bytes, model_memory_bytes have a ratio; expected "
                "max_drop or min_value"
            ),
        ],
        id="ratio of a score",
    ),
    pytest.param(
        H + S + "gates: {throughput_per_s_at_2: {max_drop: 1}}\nbenchmark: {throughput_batch_sizes: [4, 2]}\n",
        [
            (
                "4:33: gates.throughput_per_s_at_2.max_drop: throughput_per_s_at_2 is a cost, not a score; expected "
                "min_ratio (times better than the source) or min_value"
            ),
        ],
        id="drop of throughput",
    ),
    pytest.param(
        H + S + "gates: {peak_memory_bytes: {min_ratio: 1}}\nbenchmark: {memory: false}\n",
        [
            (
                "4:9: gates.peak_memory_bytes: `benchmark.memory` is false, so nothing measures it; remove one of the "
                "two"
            ),
        ],
        id="gate on memory that is not measured",
    ),
    pytest.param(
        H + S + "benchmark: {throughput_batch_sizes: [8, 8], memory: 1}\n",
        [
            "4:13: benchmark.throughput_batch_sizes: got [8, 8], expected each number of rows once",
            "4:45: benchmark.memory: got 1, expected true or false",
        ],
        id="batch sizes",
    ),
    pytest.param(
        H + S + D + E + "gates: {top1_agreement: {max_drop: 0.1}}\n",
        [
            (
                "7:26: gates.top1_agreement.max_drop: top1_agreement compares the result with the source, which has "
                "none to drop from; expected min_value or max_value"
            ),
        ],
        id="drop of a comparison",
    ),
    pytest.param(
        H
        + S
        + D
        + "evaluate:\n"
        + "  - {task: zero-shot-image-classification, data: photos}\n" * 2
        + "gates: {zero_shot_accuracy: {max_drop: 0.1}}\n",
        ["9:9: gates.zero_shot_accuracy: 2 evaluations of this recipe measure it, expected one; remove the others"],
        id="gate on a measure given twice",
    ),
    pytest.param(
        "version: 1\nmodel: {id: ./model}\n" + S,
        ["2:9: model.id: got './model', expected a folder; <here>/model does not exist"],
        id="folder missing",
    ),
    pytest.param(
        "version: 1\nmodel: {id: ./recipe.yaml}\n" + S,
        ["2:9: model.id: got './recipe.yaml', expected a folder; <here>/recipe.yaml is a file"],
        id="folder is a file",
    ),
    pytest.param(
        "version: 1\nmodel: {id: me/clip small}\n" + S,
        [
            (
                "2:9: model.id: got 'me/clip small', expected the id of a Hub repository, as in "
                "owner/name, or a folder in <here>"
            ),
        ],
        id="no hub id",
    ),
    pytest.param(
        "version: 1\nmodel: {id: ''}\n" + S,
        ["2:9: model.id: got '', expected the id of a Hub repository, as in owner/name, or a folder in <here>"],
        id="no hub id, empty",
    ),
    pytest.param(
        H + S + "data:\n  photos: {dataset: ../photos, split: test}\n" + E,
        ["5:12: data.photos.dataset: got '../photos', expected a folder; <here>/../photos does not exist"],
        id="dataset folder missing",
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_every_mistake_is_named_with_its_place(text: str, expected: list[str], here: Path) -> None:
    """Each mistake is one line: place, key, what was got, what was expected; nothing else is reported."""
    names = {"<steps>": STEPS, "<tasks>": TASKS, "<quantizers>": QUANTIZERS, "<importances>": IMPORTANCES}
    fillings = {tag: ", ".join(registry) for tag, registry in names.items()} | {"<here>": str(here), "<recipe>": KEYS}
    for tag, filling in fillings.items():
        expected = [line.replace(tag, filling) for line in expected]
    (here / "recipe.yaml").write_text(text, encoding="utf-8")

    assert [f"recipe.yaml:{line}" for line in expected] == problem_lines("recipe.yaml")


def test_full_recipe_becomes_typed_objects(here: Path) -> None:
    """Every section arrives as the frozen object that later parts take."""
    recipe = written_and_loaded(
        H + DYNAMIC + D + E + "gates: {zero_shot_accuracy: {max_drop: 1e-2}}\npush: {repo: me/small, private: true}\n",
        here,
    )

    assert recipe.steps[0].use == "quantize"
    assert recipe.steps[0].options.mode == "dynamic"  # type: ignore[attr-defined]
    assert recipe.evaluate[0].options.data == "photos"
    assert recipe.data["photos"].columns == {"image": "img", "label": "label"}
    assert recipe.gates["zero_shot_accuracy"] == Gate(max_drop=0.01)
    assert recipe.push is not None
    assert recipe.push.private


@pytest.mark.parametrize("text", ["```python\nx = 1\n", "~~~\n", "<!-- later\n", "<script>\n"])
def test_words_that_swallow_the_card_are_refused(text: str, here: Path) -> None:
    """A block of code or HTML that the author leaves open is a mistake of the recipe, placed."""
    (here / "recipe.yaml").write_text(H + S + f"card: {{text: {json.dumps(text)}}}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^recipe\.yaml:4:8: card\.text: the text leaves a code block or HTML open"):
        load_recipe("recipe.yaml")


@pytest.mark.parametrize("tag", ["license:mit", "two words", "", "a\nb", "x" * 97])
def test_tags_are_the_hubs(tag: str, here: Path) -> None:
    """A tag is letters, digits and a few marks: none can stand for a license or a base model."""
    (here / "recipe.yaml").write_text(H + S + f"card: {{tags: [fine, {json.dumps(tag)}]}}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^recipe\.yaml:4:21: card\.tags\[1\]: got .+, expected a tag of letters"):
        load_recipe("recipe.yaml")


def test_words_and_tags_of_the_author(here: Path) -> None:
    """A recipe adds Markdown and tags to its card; both are its own."""
    text = "For *birds*.\n\n```python\nx = 1\n```\n<b>bold</b>"
    (here / "recipe.yaml").write_text(H + S + f"card: {{text: {json.dumps(text)}, tags: [a.b]}}\n", encoding="utf-8")
    card = load_recipe("recipe.yaml").card
    assert (card.text, card.tags) == (text, ("a.b",))


def test_step_of_another_distribution_is_built(here: Path) -> None:
    """A step that an entry point provides validates its own options and is built from the recipe."""
    step = written_and_loaded(H + "steps: [{use: round-weights, bits: 10}]\n", here).steps[0].build()

    assert isinstance(step, Step)
    assert step.options.bits == 10


def test_larger_or_slower_results_are_refused_by_default(here: Path) -> None:
    """A recipe that says nothing of size and latency still has their gates, and null lifts one."""
    both = {"size_bytes": Gate(min_ratio=1.0), "latency_ms": Gate(min_ratio=1.0)}
    assert written_and_loaded(H + S, here).gates == both
    assert written_and_loaded(H + S + "gates: {latency_ms: null}\n", here).gates == both | {"latency_ms": None}


def test_throughput_has_a_name_for_each_batch_size(here: Path) -> None:
    """The largest calls give the measurement its plain name, the others say their rows; all can have gates."""
    text = H + S + "benchmark: {throughput_batch_sizes: [4, 16, 1]}\n"
    names = {"throughput_per_s_at_1": 1, "throughput_per_s_at_4": 4, "throughput_per_s": 16}
    assert written_and_loaded(text, here).benchmark.throughput_names == names
    gated = text + "gates: {throughput_per_s_at_4: {min_ratio: 1}, throughput_per_s: {min_value: 9}}\n"
    assert written_and_loaded(gated, here).gates.keys() > {"throughput_per_s_at_4", "throughput_per_s"}
    assert (
        written_and_loaded(H + S + "benchmark: {throughput_batch_sizes: []}\n", here).benchmark.throughput_names == {}
    )


def test_local_folders_become_absolute(here: Path) -> None:
    """A folder beside the recipe wins over a Hub id from any current folder; the text keeps what was written."""
    for folder in ("recipes/model", "recipes/me/photos"):
        (here / folder).mkdir(parents=True)
    (here / "recipes" / "r.yaml").write_text(f"version: 1\nmodel: {{id: ./model}}\n{S}{D}{E}", encoding="utf-8")
    recipe = load_recipe("recipes/r.yaml")

    assert recipe.base == here / "recipes"
    assert (recipe.model.id, recipe.model.is_local) == (str(here / "recipes" / "model"), True)
    assert recipe.data["photos"].dataset == str(here / "recipes" / "me" / "photos")
    assert "id: ./model" in recipe.text


def test_revision_of_a_folder_is_refused(here: Path) -> None:
    """A revision that could not be honoured is not ignored."""
    (here / "model").mkdir()
    (here / "recipe.yaml").write_text("version: 1\nmodel: {id: model, revision: v2}\n" + S, encoding="utf-8")

    expected = ["recipe.yaml:2:20: model.revision: a local folder has no revisions; remove this key"]
    assert expected == problem_lines("recipe.yaml")


def test_mapping_is_a_recipe_too() -> None:
    """Values from Python are validated like a file; mistakes then have no line."""
    assert load_recipe({"version": 1, "model": {"id": "me/clip"}, "steps": ({"use": "round-weights"},)}).seed == 0
    with pytest.raises(RecipeError, match=r"^recipe: model\.id: missing; expected text$") as caught:
        load_recipe({"version": 1, "model": {}, "steps": [{"use": "round-weights"}]})
    assert caught.value.problems == (Problem("recipe", "model.id", "missing; expected text"),)
    with pytest.raises(RecipeError, match=r"^recipe: seed: got an object of type set, expected what YAML can say$"):
        load_recipe({"seed": {1}})


def test_validation_imports_nothing_heavy(here: Path) -> None:
    """Loading a recipe with pruning, quantization and a task leaves the heavy libraries alone."""
    rows = "  rows: {dataset: me/rows, split: train}\n"
    (here / "recipe.yaml").write_text(
        H + "steps:\n  - {use: prune, towers: {all: {ffn: 0.5}}}\n" + STATIC.removeprefix("steps:\n") + D + rows + E,
        "utf-8",
    )
    code = (
        "import sys, hfcompress.recipe; hfcompress.recipe.load_recipe('recipe.yaml'); "
        "print(sorted({'torch', 'transformers', 'datasets', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603

    assert (done.stdout, done.stderr) == ("[]\n", "")
