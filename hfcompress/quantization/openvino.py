"""Int8 and int4 for OpenVINO, through optimum-intel's exporter and `OVQuantizer`, which drives NNCF."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hfcompress.contracts import CalibratedOptions, Checkpoint, Forecast, Format, Json, Step
from hfcompress.errors import QuantizationError
from hfcompress.quantization.exclusion import excluded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from openvino import Model as Graph
    from optimum.intel.openvino.modeling_base import OVBaseModel

    from hfcompress.contracts import StepContext
    from hfcompress.quantization.openvino_graph import Precisions

__all__ = ["OpenVinoOptions", "OpenVinoQuantizer"]

_INT4_ONLY = ("group_size", "ratio", "awq", "scale_estimation")
_STATIC_ONLY = ("smooth", "target", "per_channel", "batch_size")
_LANGUAGE_MODEL = "lm_model"
"""optimum-intel's name of the decoder of a vision-language model."""

_ALL = 1_000_000_000
"""Samples that NNCF may take: all there are, for the rows are the recipe's choice. It takes 128 if it is not told."""


class OpenVinoOptions(CalibratedOptions):
    """What a recipe can say of `use: quantize` with `runtime: openvino`."""

    runtime: Literal["openvino"] = Field(description="Where the result will run: OpenVINO on the CPU.")
    mode: Literal["weight_only", "static"] = Field(
        description="weight_only: weights are stored in few bits and computed with in float; static: products are "
        "computed in 8 bits, with ranges of the activations from calibration rows."
    )
    weights: Literal["int8", "int4"] = Field("int8", description="Type in which weights are stored.")
    symmetric: bool = Field(
        default=False,
        description="Ranges reach as far below zero as above it, without a zero point: those of the weights "
        "(weight_only), of the activations (static; the weights' always do).",
    )
    group_size: int = Field(
        128,
        ge=2,
        description="int4: neighbouring inputs that share a scale; where a layer's width is no multiple of it, the "
        "largest power of two below it that divides the width, or 8 bits where that is too small.",
    )
    ratio: float = Field(
        1.0, gt=0.0, le=1.0, description="int4: fraction of the weights in 4 bits; the most sensitive rest is in 8."
    )
    awq: bool = Field(
        default=False, description="int4: scale up the channels that matter most (AWQ), by calibration rows if given."
    )
    scale_estimation: bool = Field(
        default=False, description="int4: choose scales by the error of each layer's output on the calibration rows."
    )
    smooth: float | None = Field(
        0.95,
        gt=0.0,
        le=1.0,
        description="static: how much of the activations' spread moves into the weights (SmoothQuant's alpha); null "
        "moves nothing.",
    )
    target: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = Field(
        "auto",
        description="static: the processor; without VNNI (avx2, avx512) products saturate, so weights use 7 of 8 "
        "bits. auto is right everywhere.",
    )
    per_channel: bool = Field(
        default=True, description="static: one scale per output channel of a weight instead of one per weight."
    )
    exclude: tuple[str, ...] = Field(
        (), description="Names of operators that stay in float, `*` standing for anything; the report lists them."
    )
    batch_size: int = Field(16, ge=1, description="Calibration rows that go through the model at once.")

    @model_validator(mode="after")
    def _options_of_the_mode(self) -> OpenVinoOptions:
        given = self.model_fields_set
        if self.mode == "static":
            if self.weights == "int4":
                msg = "`mode: static` computes in 8 bits; use `weights: int8`, or `mode: weight_only` for int4"
                raise ValueError(msg)
            _refuse(given & set(_INT4_ONLY), "is for `mode: weight_only` with `weights: int4`")
            if self.calibration is None:
                msg = "`mode: static` needs `calibration`, the name of an entry of `data`"
                raise ValueError(msg)
            return self
        _refuse(given & set(_STATIC_ONLY) - ({"batch_size"} if self.looks_at_rows else set()), "is for `mode: static`")
        if self.weights == "int8":
            _refuse(given & set(_INT4_ONLY), "is for `weights: int4`")
        if self.scale_estimation and self.calibration is None:
            msg = "`scale_estimation` needs `calibration`, the name of an entry of `data`"
            raise ValueError(msg)
        if self.calibration is not None and not self.looks_at_rows:
            msg = (
                "`mode: weight_only` looks at `calibration` rows for int4 with `awq`, `scale_estimation` or a `ratio` "
                "below 1 alone; remove `calibration`, or use one of these"
            )
            raise ValueError(msg)
        return self

    @property
    def looks_at_rows(self) -> bool:
        """Whether calibration rows make a difference."""
        return self.mode == "static" or self.awq or self.scale_estimation or self.ratio < 1.0

    @property
    def reduces_range(self) -> bool:
        """Whether weights use 7 of their 8 bits, so that products do not saturate on processors without VNNI."""
        return self.target in {"auto", "avx2", "avx512"}


def _refuse(names: set[str], reason: str) -> None:
    if names:
        first, *_ = sorted(names)
        msg = f"`{first}` {reason}; remove it"
        raise ValueError(msg)


class OpenVinoQuantizer(Step):
    """Exports to OpenVINO and quantizes the weights, and for `mode: static` the activations that meet them.

    Products of two activations (attention scores, the final similarity) stay in float. SmoothQuant is of Xiao et al.
    2023, AWQ of Lin et al. 2024.
    """

    Options: ClassVar[type[OpenVinoOptions]] = OpenVinoOptions
    options: OpenVinoOptions

    @property
    def accepts(self) -> frozenset[Format]:
        """Only a transformers checkpoint can be exported."""
        return frozenset({"transformers"})

    @property
    def produces(self) -> Format:
        """An OpenVINO export."""
        return "openvino"

    @property
    def extra(self) -> str | None:
        """Exporter, quantizer and runtime come with one extra."""
        return "openvino"

    def forecast(self, before: Forecast) -> Forecast:
        """Check that optimum-intel exports the architecture, and count what becomes one byte or half of one."""
        import torch

        from hfcompress.anatomy import meta_model
        from hfcompress.runtimes.openvino import stock_export

        task = stock_export(before.config).task
        model = meta_model(before.config)
        linear = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)  # noqa: SLF001 - all convolutions
        weights = {  # by their identity: an embedding and the layer that shares it are stored once, in 8 bits
            id(part.weight): (part.weight.numel(), isinstance(part, linear))
            for kinds in (linear, torch.nn.Embedding)
            for part in model.modules()
            if isinstance(part, kinds)
        }
        layers = sum(count for count, product in weights.values() if product)
        quantized = min(sum(count for count, _ in weights.values()), before.parameters)
        halves = int(layers * self.options.ratio) // 2 if self.options.weights == "int4" else 0
        return replace(
            before,
            format="openvino",
            size_bytes=quantized - halves + 4 * (before.parameters - quantized),
            changes=(
                f"export to OpenVINO ({task})",
                f"{self.options.mode} {self.options.weights}: {quantized:,} of {before.parameters:,} weights, 4 bytes"
                + (" to 1 or half of one" if halves else " to 1"),
            ),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Export, and quantize each graph, on what it is given in the real pipeline where rows are looked at."""
        from hfcompress.anatomy import copy_processor
        from hfcompress.runtimes.openvino import OpenVino, load_stock

        rows = context.calibration
        if self.options.calibration is not None and rows is None:
            msg = f"`mode: {self.options.mode}` needs calibration rows"
            raise QuantizationError(msg)
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            exported = OpenVino().export(checkpoint, Path(scratch) / "float32").path
            model = load_stock(exported, compiled=False)
            kept = self._kept(model.ov_models)
            self._quantize(model, exported, output, kept, context)
            (output / "config.json").unlink()  # with what optimum-intel says of it, and the exporter has said it better
            copy_processor(exported, output)
        counts = _counts(output)
        if self.options.weights == "int4" and not any(graph.int4 for graph in counts.values()):
            msg = (
                f"no layer can have its weights in 4 bits: `group_size: {self.options.group_size}`, or a large enough "
                f"power of two below it, divides the width of none that takes 4 bits; choose another `group_size`, or "
                f"`weights: int8`"
            )
            raise QuantizationError(msg)
        return {
            "mode": self.options.mode,
            "weights": self.options.weights,
            **self._told(),
            **({} if rows is None else {"calibration": rows.record()}),
            "graphs": {name: {key: n for key, n in asdict(graph).items() if n} for name, graph in counts.items()},
        }

    def _quantize(
        self, model: OVBaseModel, exported: Path, output: Path, kept: dict[str, list[str]], context: StepContext
    ) -> None:
        """Quantize all graphs of a float32 export that was read from `exported` into `output`.

        Raises:
            QuantizationError: An activation is not finite, or NNCF cannot take the model.
            DataError: The rows lack what the model reads.
        """
        import nncf
        from optimum.intel.openvino import OVConfig, OVPipelineQuantizationConfig, OVQuantizer

        from hfcompress.quantization.openvino_feeds import graph_inputs
        from hfcompress.quantization.openvino_graph import broken_range, read_graph

        datasets = None
        if context.calibration is not None:
            feeds = graph_inputs(exported, context.calibration, self.options.batch_size, context.progress)
            datasets = {name: nncf.Dataset(feed) for name, feed in feeds.items()}
        settings = OVPipelineQuantizationConfig(
            {
                name: self._settings(names, beside_decoder=_LANGUAGE_MODEL in kept and name != _LANGUAGE_MODEL)
                for name, names in kept.items()
            }
        )
        refusals: tuple[type[Exception], ...] = (
            *_nncf_errors(),
            ArithmeticError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        )
        try:
            with _silent():
                OVQuantizer.from_pretrained(model, seed=context.seed).quantize(
                    calibration_dataset=datasets,
                    ov_config=OVConfig(quantization_config=settings),
                    save_directory=output,
                )
        except refusals as error:
            msg = f"NNCF cannot quantize this model: {error}"
            raise QuantizationError(msg) from error
        for file in sorted(output.glob("openvino*.xml")):
            if (name := broken_range(read_graph(file))) is not None:
                msg = f"the activation {name} of {file.name} is not finite on the calibration rows, so it has no range"
                raise QuantizationError(msg)

    def _settings(self, kept: list[str], *, beside_decoder: bool) -> Any:  # noqa: ANN401 - one of two classes
        """Return what optimum-intel is asked for one graph.

        Args:
            kept: Names of the operators that stay in float.
            beside_decoder: Whether the graph stands before the decoder of a vision-language model, which holds most
                of the weights: it is small, and loses more in 4 bits than that saves.
        """
        from nncf import AdvancedQuantizationParameters
        from nncf.quantization.advanced_parameters import QuantizationParameters
        from optimum.intel.openvino import OVQuantizationConfig, OVWeightQuantizationConfig

        options = self.options
        ignored = {"names": kept, "validate": False}
        if options.mode == "static":
            scales = QuantizationParameters(per_channel=options.per_channel)
            return OVQuantizationConfig(
                sym=options.symmetric,
                ignored_scope=ignored,
                num_samples=_ALL,
                overflow_fix="enable" if options.reduces_range else "disable",
                smooth_quant_alpha=-1 if options.smooth is None else options.smooth,
                advanced_parameters=AdvancedQuantizationParameters(weights_quantization_params=scales),
            )
        if options.weights == "int8" or beside_decoder:
            return OVWeightQuantizationConfig(bits=8, sym=options.symmetric, ignored_scope=ignored)
        return OVWeightQuantizationConfig(
            bits=4,
            sym=options.symmetric,
            group_size=options.group_size,
            group_size_fallback="adjust",
            ratio=options.ratio,
            quant_method="awq" if options.awq else "default",
            scale_estimation=options.scale_estimation or None,
            num_samples=_ALL,
            ignored_scope=ignored,
        )

    def _kept(self, graphs: Mapping[str, Graph]) -> dict[str, list[str]]:
        """Return the names of the operators of each graph that stay in float.

        Raises:
            QuantizationError: A pattern of `exclude` matches no operator that holds a weight.
        """
        from hfcompress.quantization.openvino_graph import products, weighted

        names = {name: weighted(graph) for name, graph in graphs.items()}
        left = excluded(
            self.options.exclude, [name for held in names.values() for name in held], "operators with a weight"
        )
        return {name: [*products(graph), *sorted(left & set(names[name]))] for name, graph in graphs.items()}

    def _told(self) -> dict[str, Json]:
        """Return the options that made a difference."""
        options = self.options
        told: dict[str, Json] = {"symmetric": options.symmetric}
        if options.mode == "static":
            told |= {"smooth": options.smooth, "per_channel": options.per_channel, "target": options.target}
            told["weight_bits"] = 7 if options.reduces_range else 8
        elif options.weights == "int4":
            told |= {name: getattr(options, name) for name in _INT4_ONLY}
        return told | ({"exclude": list(options.exclude)} if options.exclude else {})


def _counts(folder: Path) -> dict[str, Precisions]:
    """Return for each graph of a folder how many operators hold their weights in which type."""
    from hfcompress.quantization.openvino_graph import precisions, read_graph

    return {file.stem: precisions(read_graph(file)) for file in sorted(folder.glob("openvino*.xml"))}


def _nncf_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that NNCF has of its own; they share no base."""
    import nncf.errors

    return tuple(
        error for error in vars(nncf.errors).values() if isinstance(error, type) and issubclass(error, Exception)
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what NNCF draws and tells off the standard output, which is for data; we tell the progress ourselves."""
    import logging

    import nncf

    logger = logging.getLogger("nncf")
    level = logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        nncf.set_log_level(level)
