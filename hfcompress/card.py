"""The model card: a report as Markdown that the Hub and people can read.

It computes nothing: every number is one of the report's, formatted. All text that comes from outside (ids, licenses,
labels, details of third-party steps) is escaped, so that it can be read and cannot act.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined, Template

from hfcompress.canvas import shown
from hfcompress.changes import describe_change, format_difference, format_value, is_within_noise
from hfcompress.graph_names import runs_in_transformers_js
from hfcompress.licenses import license_warning
from hfcompress.plots import EXPORTS
from hfcompress.snippet import identifier, install_command, is_repo_id, loading_requirements, loading_snippet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hfcompress.canvas import Picture
    from hfcompress.contracts import Json, Measurement, StepRecord, Value
    from hfcompress.report import GateResult, Report

__all__ = ["card_metadata", "render_body", "render_card", "title_of"]

METRICS = {
    "zero_shot_accuracy": "accuracy",
    "zero_shot_top5_accuracy": "accuracy",
    "mean_per_class_recall": "recall",
    "worst_class_recall": "recall",
    "word_error_rate": "wer",
    "character_error_rate": "cer",
    "rouge_l": "rouge",
    "vqa_accuracy": "accuracy",
    **{f"{way}_recall_at_{k}": f"recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)},
}
"""The Hub's ids of metrics, by ours where they differ (`bleu`, `chrf`, `exact_match`, `cider`, `anls` do not).

The metric's name, which stands beside the id, tells measures of one id apart.
"""
PIPELINES = {"image-text-retrieval": "zero-shot-image-classification"}
"""The Hub's name of the task that a model is for, by ours where they differ: the same dual encoders do both."""
STEP_TAGS = {"cast": "half-precision", "prune": "pruned", "quantize": "quantized"}
LIBRARIES = {"transformers": "transformers", "onnx": "optimum", "openvino": "optimum"}
COSTS = ("size_bytes", "parameters", "flops", "latency_ms", "throughput_per_s", "peak_memory_bytes")
"""The costs of the first table; all others stand further below, with how they were measured."""
NOTHING = "\u2013"
DETAIL_LINES = 40
LIST_ITEMS = 12
COMMIT = re.compile(r"[0-9a-f]{40}")


def render_card(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the text of `README.md`.

    Args:
        report: What the run found out.
        pictures: What `draw_pictures` drew beside the card.

    Raises:
        RunError: The report names a class to load with that is no dotted Python name.
    """
    return f"---\n{card_metadata(report).to_yaml()}\n---\n\n{render_body(report, pictures)}"


def render_body(report: Report, pictures: Sequence[Picture]) -> str:
    """Return the card's Markdown below its front matter; see `render_card`."""
    rows = report.measurements
    quality, costs = [row for row in rows if row.task], [row for row in rows if not row.task]
    source, recipe, details = report.source, report.recipe, report.cost_details
    return _template().render(
        title=plain(title_of(report)),
        failed=[_gate(gate) for gate in report.failed_gates],
        headline=_headline(report),
        export=EXPORTS[report.artifact.format],
        costs=[_row(row) for row in costs if row.name in COSTS],
        more_costs=[_row(row) for row in costs if row.name not in COSTS]
        + [_row(row) for row in (details.tower_measurements if details else ())],
        unmeasured=[plain(f"{row.name}: {row.reason}") for row in details.unmeasured] if details else [],
        flop_tokens=details.flop_tokens if details and details.tower_flops else None,
        throughput=any(row.unit == "rows/s" for row in costs),
        memory=any(row.name == "peak_memory_bytes" for row in costs),
        quality=[_row(row) for row in quality],
        has_published=any(row.as_published is not None for row in costs),
        has_intervals=any(row.compressed.low is not None for row in rows),
        has_fidelity=any(row.source is None for row in quality),
        author=None if report.card.text is None else report.card.text.strip(),
        has_noise=any(is_within_noise(row) for row in rows),
        pictures=[{"alt": plain(picture.alt), "path": picture.path} for picture in pictures],
        install=install_command(report.artifact),
        imports_hfcompress=report.artifact.imports_hfcompress,
        snippet=_fence("python", loading_snippet(report.artifact)),
        steps=[_step(step) for step in report.steps],
        gates=[_gate(gate) for gate in report.gates],
        source=_source(report),
        source_on_hub=source.on_hub,
        datasets=list(dict.fromkeys(_data(row) for row in quality)),
        machine=_machine(report.environment),
        versions=_versions(report.environment),
        license=_license(report),
        latency=any(row.unit == "ms" for row in rows),
        reproduce=_reproduce(report.environment),
        recipe_sha256=recipe.sha256,
        recipe=_fence("yaml", recipe.text.rstrip("\n")),
    )


def card_metadata(report: Report) -> ModelCardData:
    """Return the card's front matter, as the Hub reads it.

    The results are those of this run, never the source's. What is not a Hub id is left out where one is expected, and
    `datasets`, which the Hub shows as "used to train", holds only those that a step was calibrated with.
    """
    source, artifact = report.source, report.artifact
    base = source.id if source.on_hub and is_repo_id(source.id) else None
    quantized = any(step.use in {"cast", "quantize"} for step in report.steps)
    tags = ["hfcompress", *(STEP_TAGS[step.use] for step in report.steps if step.use in STEP_TAGS)]
    if artifact.format != "transformers":
        tags.append(artifact.format)
    tags += loading_requirements(artifact)
    tags += filter(None, [artifact.dtype])
    if runs_in_transformers_js(artifact.files):
        tags.append("transformers.js")
    tags += [tag for tag in map(identifier, report.card.tags) if tag]
    results = [_result(row) for row in report.measurements if row.task and row.source is not None]
    return ModelCardData(
        license=identifier(source.license),
        license_name=identifier(source.license_name),
        license_link=source.license_link if _is_link(source.license_link) else None,
        library_name=LIBRARIES[artifact.format],
        pipeline_tag=identifier(PIPELINES.get(artifact.pipeline_tag or "", artifact.pipeline_tag)),
        tags=list(dict.fromkeys(tags)),
        base_model=base,
        base_model_relation=("quantized" if quantized else "finetune") if base else None,
        datasets=_calibrated_with(report.steps) or None,
        model_name=title_of(report) if results else None,
        eval_results=results or None,
    )


def plain(text: str) -> str:
    """Return text from outside so that Markdown shows it as it is: one line without markup, HTML, formulas, links."""
    line = re.sub(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", shown(text, 2000))
    line = re.sub(r"[&<>\\`*\[\]|~$#!@{}]|(?<![^\W_])_|_(?![^\W_])|:(?=//)", _entity, line)
    line = re.sub(r"(?i)\bwww(?=\.)", "www&#8203;", line)
    return re.sub(r"^(\d+)[.)](?=\s|$)|^[-+=]", lambda found: (found[1] or "") + _entity(found[0][-1]), line)


def code(text: str) -> str:
    """Return text from outside as inline code, in which nothing is markup."""
    line = re.sub(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", shown(text, 2000)) or " "
    fence = "`" * (1 + _longest_run(line))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _entity(found: re.Match[str] | str) -> str:
    return f"&#{ord(found if isinstance(found, str) else found[0])};"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _fence(language: str, text: str) -> str:
    """Return a fenced block that the text cannot close."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


@cache
def _template() -> Template:
    # Markdown is not HTML: what comes from outside is escaped where it enters.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(files("hfcompress").joinpath("card_template.md").read_text(encoding="utf-8"))


def _is_link(text: str | None) -> bool:
    return text is not None and re.fullmatch(r"https://[\w./~%?=&#-]+|[\w.-]+", text, re.ASCII) is not None


def _calibrated_with(steps: Sequence[StepRecord]) -> list[str]:
    """Return the Hub ids of the datasets under `calibration` in the steps' details."""
    ids = []
    for step in steps:
        data = step.detail.get("calibration")
        if isinstance(data, dict):
            name, revision = data.get("dataset"), data.get("revision")
            if isinstance(name, str) and isinstance(revision, str) and _on_hub(name, revision):
                ids.append(name)
    return list(dict.fromkeys(ids))


def _on_hub(dataset: str, revision: str | None) -> bool:
    """Whether a dataset is one of the Hub's: its revision is a commit, where a local one has a shorter fingerprint."""
    return revision is not None and COMMIT.fullmatch(revision) is not None and is_repo_id(dataset)


def _result(row: Measurement) -> EvalResult:
    on_hub = row.dataset is not None and _on_hub(row.dataset, row.revision)
    name = shown(row.dataset or "local")
    return EvalResult(
        task_type=identifier(row.task) or "other",
        dataset_type=name if on_hub else "local",
        dataset_name=name,
        dataset_split=None if row.split is None else shown(row.split),
        dataset_revision=row.revision if on_hub else None,
        metric_type=METRICS.get(row.name) or identifier(row.name) or "other",
        metric_name=shown(row.label),
        metric_value=row.compressed.value,
    )


def title_of(report: Report) -> str:
    """Return the artifact's name: the repository's, or the source's with what became of it."""
    if report.artifact.repo:
        return shown(report.artifact.repo.rpartition("/")[2])
    done = [STEP_TAGS.get(step.use, step.use) for step in report.steps]
    return shown("-".join([report.source.id.rpartition("/")[2], *dict.fromkeys(done)]))


def _linked(name: str, address: str | None) -> str:
    return f"[{code(name)}](https://huggingface.co/{address})" if address else code(name)


def _headline(report: Report) -> str:
    """Return the first sentence: what was won, what was lost, where and on how many rows."""
    rows = {row.name: row for row in report.measurements}
    costs = [
        row for name in ("size_bytes", "latency_ms") if (row := rows.get(name)) is not None and row.source is not None
    ]
    outcomes = [describe_change(row) for row in costs]
    source = report.source
    of = _linked(source.id, source.id if source.on_hub and is_repo_id(source.id) else None)
    other = {"onnx": f"the float32 ONNX export of {of}", "openvino": f"the float32 OpenVINO export of {of}"}
    than = other.get(report.artifact.format, of)
    if outcomes:
        good = [word.endswith(("smaller", "faster")) and not word.startswith("no ") for word in outcomes]
        joined = (" and " if len(set(good)) == 1 else " but ").join(outcomes)
        first = f"**{joined[0].upper()}{joined[1:]}** than {than}"
        if "latency_ms" in rows:
            threads = report.environment.get("threads")
            first += f" on {plain(str(report.environment.get('cpu', 'an unnamed CPU')))}"
            first += f" with {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    else:
        first = f"Made from {than}"
    score = next((row for row in report.measurements if row.task and row.source is not None), None)
    if score is not None and score.source is not None:
        before, after = (format_value(value.value, score.unit) for value in (score.source, score.compressed))
        sure = [*(["within noise"] if is_within_noise(score) else []), *([f"n = {score.n}"] if score.n else [])]
        first += f"; {plain(score.label)} {before} → {after}" + (f" ({', '.join(sure)})" if sure else "")
    return f"{first}. Made with hfcompress."


def _row(row: Measurement) -> dict[str, str]:
    return {
        "label": plain(row.label) + (f" (n = {row.n})" if row.n is not None else ""),
        "published": _cell(row.as_published, row.unit),
        "source": _cell(row.source, row.unit),
        "compressed": f"**{_cell(row.compressed, row.unit)}**",
        "change": _change(row) or NOTHING,
    }


def _change(row: Measurement) -> str:
    """Return what became of a quantity, with the interval of the difference where there is one."""
    told, found = describe_change(row), row.difference
    if found is None or found.low is None or found.high is None or found.value == 0 == found.low == found.high:
        return told
    interval = [format_difference(bound, row.unit) for bound in (found.low, found.high)]
    return f"{told} {_bracket(interval)}" + (", within noise" if is_within_noise(row) else "")


def _cell(value: Value | None, unit: str) -> str:
    if value is None:
        return NOTHING
    text, *interval = (
        format_value(number, plain(unit)) for number in (value.value, value.low, value.high) if number is not None
    )
    if len(interval) < 2:  # noqa: PLR2004 - both ends or none
        return text
    if unit in {"ratio", "ms", "rows/s"}:
        interval = [bound.partition("\u00a0")[0] for bound in interval]  # the unit stands before the bracket
    return f"{text} {_bracket(interval)}"


def _bracket(interval: Sequence[str]) -> str:
    """Return an interval that no line break tears apart."""
    return "[" + ",\u00a0".join(interval) + "]"


def _gate(gate: GateResult) -> dict[str, str]:
    rule = code(f"{gate.name}: {gate.rule}").replace("|", "\\|")  # a table ends its cells even in code
    return {"rule": rule, "held": "yes" if gate.held else "**no**", "detail": plain(gate.detail)}


def _step(step: StepRecord) -> dict[str, Any]:
    lines = [line for key, value in step.detail.items() for line in _detail(value, (_key(key),))]
    if len(lines) > DETAIL_LINES:
        lines = [*lines[:DETAIL_LINES], "… and more, all of it in `report.json`"]
    took = "taken from the cache; it took" if step.cached else "took"
    return {"title": f"{code(step.use)} ({took} {format_value(step.seconds, 's')})", "lines": lines}


def _detail(value: Json, path: tuple[str, ...]) -> Iterator[str]:
    """Yield a line for each leaf of a step's detail and each sentence; `{"before": …, "after": …}` is a leaf."""
    name = ", ".join(path)
    if isinstance(value, dict) and value.keys() == {"before", "after"}:
        yield f"{name}: {_leaf(value['before'])} → {_leaf(value['after'])}"
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _detail(item, (*path, _key(key)))
    elif isinstance(value, list) and any(isinstance(item, str) and " " in item for item in value):
        yield from (f"{name}: {_leaf(item)}" for item in value)
    else:
        yield f"{name}: {_leaf(value)}"


def _key(key: str) -> str:
    """Return a name of ours as words ("float_nodes") and any other, such as a file's or a config's, as it is."""
    return key.replace("_", " ") if re.fullmatch(r"[a-z][a-z0-9_]*", key) else code(key)


def _leaf(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return plain(f"{value:.4g}")
    if isinstance(value, str):
        return plain(value) if " " in value else code(value)
    if isinstance(value, list):
        items = [_leaf(item) for item in value[:LIST_ITEMS]]
        apart = "; " if any(isinstance(item, dict) for item in value) else ", "
        return apart.join(items + ["…"] * (len(value) > LIST_ITEMS)) or "none"
    return _leaf_of(value)


def _leaf_of(value: dict[str, Json]) -> str:
    """Return a mapping on one line; what it was before and after comes last."""
    if {"before", "after"} < value.keys():
        rest = {key: item for key, item in value.items() if key not in {"before", "after"}}
        return f"{_leaf(rest)}: {_leaf(value['before'])} → {_leaf(value['after'])}"
    return ", ".join(f"{_key(key)} {_leaf(item)}" for key, item in value.items()) or "none"


def _source(report: Report) -> str:
    source = report.source
    told = _linked(source.id, source.id if source.on_hub and is_repo_id(source.id) else None)
    if source.architecture:
        told += f", a {code(source.architecture)}"
    if source.parameters is not None:
        told += f" of {format_value(source.parameters, 'count')} parameters"
    own = "; its classes are code of its own, which ran with `trust_remote_code`" if source.remote_code else ""
    return f"{told}, revision {code(source.revision)}{own}"


def _data(row: Measurement) -> str:
    """Return where a measure comes from; how many rows it is over stands in the table."""
    name = row.dataset or "unnamed rows"
    told = f"{plain(row.task or '')} on {_linked(name, f'datasets/{name}' if _on_hub(name, row.revision) else None)}"
    told += f", split {code(row.split)}" if row.split else ""
    return told + (f", revision {code(row.revision)}" if row.revision else "")


def _machine(environment: dict[str, str | int]) -> str:
    cpu, sets = str(environment.get("cpu", "an unnamed CPU")), str(environment.get("instruction_sets", ""))
    told = [plain(cpu) + (f" ({plain(sets)})" if sets else "")]
    if "threads" in environment:
        told.append(f"{environment['threads']} thread{'' if environment['threads'] == 1 else 's'}")
    return ", ".join([*told, plain(str(environment.get("platform", "unknown system")))])


def _versions(environment: dict[str, str | int]) -> str:
    machine = {"cpu", "instruction_sets", "threads", "platform"}
    return ", ".join(f"{plain(name)} {plain(str(value))}" for name, value in environment.items() if name not in machine)


def _license(report: Report) -> str:
    source = report.source
    warning = license_warning(source.license, source.license_name)
    if source.license is None:
        return f"**{warning}**"
    told = f"License: {code(source.license)}"
    if source.license_name or source.license_link:
        told += f", {code(' '.join(filter(None, (source.license_name, source.license_link))))}"
    return f"{told}, inherited from the source." + (f" **{plain(warning)}**" if warning else "")


def _reproduce(environment: dict[str, str | int]) -> str:
    version = identifier(str(environment.get("hfcompress", "")))
    return "hfcompress run recipe.yaml" + (f"  # hfcompress {version}" if version else "")
