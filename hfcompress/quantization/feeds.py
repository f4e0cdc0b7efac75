"""What each graph of an export is given when rows pass through the real pipeline: the inputs that calibration sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import torch

from hfcompress.errors import QuantizationError
from hfcompress.graph_names import ONNX_FOLDER
from hfcompress.inputs import load_processor, row_inputs, text_inputs
from hfcompress.processes import own
from hfcompress.runtimes.onnxruntime import load_stock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from transformers import ProcessorMixin

    from hfcompress.contracts import Checkpoint, Progress, Rows

Arrays: TypeAlias = "dict[str, np.ndarray[Any, Any]]"

__all__ = ["feeds"]

_ENCODER, _DECODER, _CONTINUING = "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
_NEW_TOKENS = 32
"""Tokens that a decoder writes for a row without a reference text, at most."""


def feeds(
    exported: Checkpoint, rows: Rows, batch_size: int, progress: Progress
) -> Iterator[tuple[str, Mapping[str, np.ndarray[Any, Any]]]]:
    """Yield the file name of a graph and one batch of its inputs, batch by batch, for all graphs of an export.

    An encoder is given the rows, its decoders what the float32 encoder makes of them and, token by token, the row's
    `text`; where the rows have none, what the float32 model itself writes.

    Args:
        exported: A float32 export: graphs under `onnx/`, processor beside them.
        rows: Calibration rows.
        batch_size: Rows that go through the model at once.
        progress: Hears how many batches are done.

    Raises:
        DataError: The rows lack what the model reads.
        QuantizationError: A decoder has an input that nothing in the pipeline gives.
    """
    processor = load_processor(exported.path)
    graphs = sorted((exported.path / ONNX_FOLDER).glob("*.onnx"))
    numbers = own(-(-len(rows) // batch_size))
    batches = progress.track(rows.batches(batch_size, numbers), len(numbers), "calibration batches")
    if any(graph.name == _ENCODER for graph in graphs):
        pipeline = _Sequence(exported.path, processor)
        for batch in batches:
            yield from pipeline.feeds(batch)
        return
    wanted = {
        graph.name: {put.name for put in onnx.load(graph, load_external_data=False).graph.input} for graph in graphs
    }
    for batch in batches:
        for name, inputs in wanted.items():
            yield name, row_inputs(processor, inputs, batch)


class _Graph:
    """A float32 graph, as a stock class has loaded it, and what it takes and gives, by name."""

    def __init__(self, session: Any, file: str) -> None:  # noqa: ANN401 - onnxruntime has no types
        self.session = session
        self.inputs = [put.name for put in session.get_inputs()]
        self.outputs = [put.name for put in session.get_outputs()]
        self.file = file

    def select(self, made: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Return the graph's own inputs out of everything that was made.

        Raises:
            QuantizationError: One of them was not.
        """
        if missing := [name for name in self.inputs if name not in made]:
            msg = f"{self.file} wants {', '.join(missing)}, which calibration cannot give; use `mode: dynamic`"
            raise QuantizationError(msg)
        return {name: made[name] for name in self.inputs}

    def __call__(self, inputs: Arrays) -> Arrays:
        return dict(zip(self.outputs, self.session.run(None, inputs), strict=True))


@dataclass(frozen=True)
class _Limits:
    """What a decoder begins with, and how far it can go."""

    start: int
    end: int | None
    length: int


class _Sequence:
    """An encoder and its decoders, as they run when a text is written."""

    def __init__(self, path: Path, processor: ProcessorMixin) -> None:
        self._processor = processor
        self._stock: Any = load_stock(path)
        self._encoder = _Graph(self._stock.encoder.session, _ENCODER)
        self._decoder = _Graph(self._stock.decoder.session, _DECODER)
        self._continuing = _Graph(self._stock.decoder_with_past.session, _CONTINUING)
        self._limits = _limits(self._stock)

    def feeds(self, batch: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Arrays]]:
        """Yield what each graph is given when one batch of rows is read and written."""
        seen = {name: column for name, column in batch.items() if name != "text"}
        inputs = self._encoder.select(row_inputs(self._processor, frozenset(self._encoder.inputs), seen))
        yield _ENCODER, inputs
        encoded = self._encoder(inputs)["last_hidden_state"]
        made = {"encoder_hidden_states": encoded}
        if "attention_mask" in inputs:
            made["encoder_attention_mask"] = inputs["attention_mask"]
        written = self._texts(batch["text"]) if "text" in batch else self._generated(inputs)
        # texts of one length go together, so that no decoder sees padding that it would never see
        for length in sorted({len(ids) for ids in written}):
            chosen = [row for row, ids in enumerate(written) if len(ids) == length]
            tokens = np.asarray([written[row] for row in chosen], dtype=np.int64)
            yield from self._decoded(tokens, {name: array[chosen] for name, array in made.items()})

    def _decoded(self, tokens: np.ndarray[Any, Any], made: Arrays) -> Iterator[tuple[str, Arrays]]:
        """Yield what the decoders are given for tokens of shape (rows, length): all at once, and one after another."""
        whole = self._decoder.select({**made, **_text(tokens, 0)})
        yield _DECODER, whole
        past = _as_past(self._decoder(self._decoder.select({**made, **_text(tokens[:, :1], 0)})))
        for place in range(1, tokens.shape[1]):
            inputs = self._continuing.select({**made, **past, **_text(tokens[:, place : place + 1], place)})
            yield _CONTINUING, inputs
            past |= _as_past(self._continuing(inputs))

    def _texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens that a decoder reads while it writes each text: a start, and all but the text's last."""
        prepared = text_inputs(self._processor, texts)
        found = []
        for ids, mask in zip(prepared["input_ids"], prepared["attention_mask"], strict=True):
            text = [int(token) for token, is_text in zip(ids, mask, strict=True) if is_text]
            shifted = text if text[:1] == [self._limits.start] else [self._limits.start, *text]
            found.append(shifted[: max(len(shifted) - 1, 1)][: self._limits.length])
        return found

    def _generated(self, inputs: Arrays) -> list[list[int]]:
        """Return the tokens that the float32 model itself writes, greedily."""
        generated = self._stock.generate(
            **{name: torch.from_numpy(array) for name, array in inputs.items()},
            do_sample=False,
            num_beams=1,
            max_new_tokens=min(_NEW_TOKENS, self._limits.length - 1),
        )
        found = []
        for row in generated.tolist():
            ids = row if row[:1] == [self._limits.start] else [self._limits.start, *row]
            ends = [place for place, token in enumerate(ids) if place and token == self._limits.end]
            found.append(ids[: ends[0]] if ends else ids)
        return found


def _limits(stock: Any) -> _Limits:  # noqa: ANN401 - a class of optimum's
    """Read where decoding begins and ends.

    Raises:
        QuantizationError: The checkpoint does not say with which token a text begins.
    """
    config, generation = stock.config, stock.generation_config
    start = generation.decoder_start_token_id
    start = generation.bos_token_id if start is None else start
    if start is None:
        msg = (
            "neither config.json nor generation_config.json says with which token a text begins, so the decoder cannot "
            "be calibrated; add decoder_start_token_id"
        )
        raise QuantizationError(msg)
    end = generation.eos_token_id
    places = ("max_target_positions", "max_position_embeddings")
    parts = (config, *(getattr(config, part, None) for part in ("decoder", "text_config")))
    longest = [getattr(part, place) for part in parts for place in places if hasattr(part, place)]
    return _Limits(start, end[0] if isinstance(end, list) else end, min(longest, default=_NEW_TOKENS))


def _text(tokens: np.ndarray[Any, Any], place: int) -> Arrays:
    """Return every input that a decoder can take for tokens that begin at a place."""
    rows, length = tokens.shape
    positions = np.arange(place, place + length, dtype=np.int64)
    return {
        "input_ids": tokens,
        "attention_mask": np.ones((rows, place + length), np.int64),
        "position_ids": np.tile(positions, (rows, 1)),
        "cache_position": positions,
    }


def _as_past(outputs: Arrays) -> Arrays:
    """Return keys and values that a decoder gave under the names by which the next one takes them."""
    return {
        name.replace("present", "past_key_values", 1): array
        for name, array in outputs.items()
        if name.startswith("present")
    }
