"""Texts that a model generates greedily, and how another model's next tokens differ along the same text.

Everything goes through the stock object's `generate`, which torch, ONNX Runtime and OpenVINO models share. A logits
processor hears the scores of every step, so neither prompts, nor how a class cuts them off, nor its way of teacher
forcing have to be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from hfcompress.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from hfcompress.contracts import Model

    Array = np.ndarray[Any, Any]

__all__ = ["Generated", "Likely", "Row", "follow", "generate", "rows_at_once"]

_LIKELY = 128
"""Most probable tokens of a step that are kept one by one; all others are kept as one."""


@dataclass(frozen=True)
class Likely:
    """A model's distribution over the next token at each step of a text: its most probable tokens and the rest as one.

    Attributes:
        tokens: Ids, shape (steps, kept).
        log_p: Their log-probabilities, float32 of shape (steps, kept).
        log_rest: The log-probability of all other tokens together, float32 of shape (steps,).
    """

    tokens: Array
    log_p: Array
    log_rest: Array


@dataclass(frozen=True)
class Row:
    """What a model writes for one row.

    Attributes:
        text: The text without special tokens.
        tokens: Its ids with the one that ends it, where it ended by itself.
        likely: The distributions that they were taken from.
    """

    text: str
    tokens: Array
    likely: Likely | None = None


@dataclass(frozen=True)
class Generated:
    """What a model writes for all rows, and how it followed another model's texts, where it did.

    Attributes:
        rows: One text a row.
        nats: For each row the sum over the other's tokens of the Kullback-Leibler divergence from the other's
            distribution to this model's, shape (rows,). All but the 128 most probable tokens of a step count as one,
            which makes it a lower bound.
        hits: For each row the number of the other's tokens that this model finds most probable too, shape (rows,).
    """

    rows: tuple[Row, ...]
    nats: Array | None = None
    hits: Array | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of all rows."""
        return tuple(row.text for row in self.rows)


def rows_at_once(model: Model, rows: int) -> list[list[int]]:
    """Return the places of the rows of a batch that can go through a model together.

    A model that writes frames hears the padding of a shorter sound, so there each row goes alone.
    """
    return [[place] for place in range(rows)] if _writes_frames(model) else [list(range(rows))]


def generate(model: Model, inputs: Mapping[str, Tensor], options: Mapping[str, Any]) -> list[Row]:
    """Return what a model writes greedily for a batch, with the distributions of each step.

    Args:
        model: Its stock object has `generate`.
        inputs: What `generate` takes, made by the model's processor.
        options: More of what it takes: `max_new_tokens`, ...

    Raises:
        CheckpointError: The model generates no text.
    """
    if _writes_frames(model):
        return [_frames_row(model, inputs)]
    heard = _Hearing()
    _run(model, inputs, options, heard)
    return _rows(model, heard)


def follow(
    model: Model, inputs: Mapping[str, Tensor], options: Mapping[str, Any], leaders: Sequence[Row]
) -> tuple[Array, Array]:
    """Have a model write what another one wrote for a batch, and return how their next tokens differ.

    Returns:
        Nats and hits of each row, as `Generated` has them.

    Raises:
        CheckpointError: The model generates no text, or ends a text before the other does.
    """
    if _writes_frames(model):
        return _frames_followed(model, inputs, leaders)
    steps = max(len(row.tokens) for row in leaders)
    forced = torch.zeros((len(leaders), steps), dtype=torch.long)
    for index, row in enumerate(leaders):
        forced[index, : len(row.tokens)] = torch.from_numpy(row.tokens)
    following = _Following(forced, leaders)
    _run(model, inputs, options, following)
    if following.step < steps:
        msg = f"the model ends a text after {following.step} tokens that the source ends after {steps}"
        raise CheckpointError(msg)
    return following.nats, following.hits


def _writes_frames(model: Model) -> bool:
    """Whether a model gives one token for each frame of a sound, all at once (CTC, Graves et al. 2006)."""
    return not hasattr(model.stock, "generate") and (model.config.architectures or [""])[0].endswith("ForCTC")


def _frames(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probabilities of each frame of the one sound in a batch, shape (frames, tokens)."""
    outputs = model({name: tensor.numpy() for name, tensor in inputs.items() if name in model.inputs})
    return torch.log_softmax(torch.from_numpy(outputs["logits"][0]).float(), dim=-1)


def _frames_row(model: Model, inputs: Mapping[str, Tensor]) -> Row:
    log_p = _frames(model, inputs)
    kept, ids = log_p.topk(min(_LIKELY, log_p.shape[-1]), dim=-1)
    tokens = log_p.argmax(dim=-1)
    text = str(model.processor.tokenizer.decode(tokens)).strip()  # type: ignore[attr-defined] # merges repeated tokens
    likely = Likely(ids.numpy().astype(np.int32), kept.numpy(), _rest(log_p, ids).numpy())
    return Row(text, tokens.numpy(), likely)


def _frames_followed(model: Model, inputs: Mapping[str, Tensor], leaders: Sequence[Row]) -> tuple[Array, Array]:
    log_q, (leader,) = _frames(model, inputs), leaders
    nats = 0.0 if leader.likely is None else sum(_divergence(leader.likely, step, q) for step, q in enumerate(log_q))
    return np.asarray([nats]), np.asarray([float((log_q.argmax(dim=-1).numpy() == leader.tokens).sum())])


class _Hearing(LogitsProcessor):
    """Keeps the distribution of each step."""

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []
        self.ids: list[Tensor] = []
        self.log_p: list[Tensor] = []
        self.log_rest: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        log_p = torch.log_softmax(scores.float(), dim=-1)
        kept, ids = log_p.topk(min(_LIKELY, log_p.shape[-1]), dim=-1)
        self.tokens.append(scores.argmax(dim=-1))
        self.ids.append(ids)
        self.log_p.append(kept)
        self.log_rest.append(_rest(log_p, ids))
        return scores


class _Following(LogitsProcessor):
    """Forces the tokens of another text and sums up how the distributions differ."""

    def __init__(self, forced: Tensor, leaders: Sequence[Row]) -> None:
        self.forced, self.leaders, self.step = forced, leaders, 0
        self.nats, self.hits = np.zeros(len(leaders)), np.zeros(len(leaders))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        if self.step >= self.forced.shape[1]:
            return scores
        log_q, chosen = torch.log_softmax(scores.float(), dim=-1), scores.argmax(dim=-1)
        for index, row in enumerate(self.leaders):
            if self.step < len(row.tokens) and row.likely is not None:
                self.nats[index] += _divergence(row.likely, self.step, log_q[index])
                self.hits[index] += int(chosen[index]) == int(row.tokens[self.step])
        only = torch.full_like(scores, -torch.inf)
        only.scatter_(1, self.forced[:, self.step : self.step + 1], 0.0)
        self.step += 1
        return only


def _divergence(likely: Likely, step: int, log_q: Tensor) -> float:
    """Return the divergence in nats from one step's kept distribution to another model's log-probabilities."""
    ids = torch.from_numpy(likely.tokens[step]).long()
    log_p = torch.cat([torch.from_numpy(likely.log_p[step]), torch.tensor([likely.log_rest[step]])]).double()
    other = torch.cat([log_q[ids], _rest(log_q[None], ids[None])]).double()
    possible = log_p > -torch.inf  # a token that the source cannot choose adds nothing
    log_p, other = log_p[possible], other[possible]
    return max(float((log_p.exp() * (log_p - other)).sum()), 0.0)


def _rest(log_p: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability of all tokens but `ids`, shape (rows,)."""
    return log_p.scatter(1, ids, -torch.inf).logsumexp(dim=-1)


@torch.inference_mode()
def _run(model: Model, inputs: Mapping[str, Tensor], options: Mapping[str, Any], heard: _Hearing | _Following) -> None:
    if not hasattr(model.stock, "generate"):
        msg = f"a {type(model.stock).__name__} generates no text; this task is for models that have `generate`"
        raise CheckpointError(msg)
    if isinstance(model.stock, torch.nn.Module):  # exports take float32 whatever their weights are stored in
        stored: Any = model.stock.dtype
        inputs = {name: each.to(stored) if each.is_floating_point() else each for name, each in inputs.items()}
    try:
        model.stock.generate(
            **inputs, do_sample=False, num_beams=1, logits_processor=LogitsProcessorList([heard]), **options
        )
    except (ValueError, TypeError, IndexError) as error:
        msg = f"{type(model.stock).__name__}.generate refuses {', '.join([*inputs, *options])}: {error}"
        raise CheckpointError(msg) from error


def _rows(model: Model, heard: _Hearing) -> list[Row]:
    tokens = torch.stack(heard.tokens, dim=1).numpy()
    ids, log_p = (torch.stack(parts, dim=1).numpy() for parts in (heard.ids, heard.log_p))
    log_rest = torch.stack(heard.log_rest, dim=1).numpy()
    ends = _end_tokens(model)
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    rows = []
    for index, row in enumerate(tokens):
        (ended,) = np.nonzero(np.isin(row, ends))
        length = int(ended[0]) + 1 if len(ended) else len(row)
        likely = Likely(ids[index, :length].astype(np.int32), log_p[index, :length], log_rest[index, :length])
        text = tokenizer.decode(row[:length], skip_special_tokens=True).strip()
        rows.append(Row(text, row[:length].copy(), likely))
    return rows


def _end_tokens(model: Model) -> list[int]:
    """Return the ids that end a text: those of the generation config, and a separator where BERT writes the text."""
    ends = model.stock.generation_config.eos_token_id
    separator = getattr(model.config.get_text_config(decoder=True), "sep_token_id", None)
    return [*(ends if isinstance(ends, list) else [ends] * (ends is not None)), *[separator] * (separator is not None)]
