"""Which nodes of an export's graphs are quantized, and which stay in float."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx

from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnx_graph import logit_products, survey
from hfcompress.quantization.stored_weights import STORED_OPERATORS
from hfcompress.registry import near_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["NodeChoice", "choose"]


@dataclass(frozen=True)
class NodeChoice:
    """The nodes of one graph.

    Attributes:
        computed: Names of those that compute in low precision.
        stored: Names of those whose weights are stored in 8 bits and which compute in float.
        excluded: Names of those that the recipe excludes.
        products: Names of the products of two activations that stay in float.
        too_sensitive: Names of those that an accuracy budget leaves in float.
        logits: Names of the products that make logits, among `stored`.
    """

    computed: frozenset[str]
    stored: frozenset[str]
    excluded: frozenset[str]
    products: frozenset[str]
    too_sensitive: frozenset[str] = frozenset()
    logits: frozenset[str] = frozenset()

    def without(self, names: frozenset[str]) -> NodeChoice:
        """Return the choice in which these nodes are too sensitive to be quantized."""
        return replace(
            self,
            computed=self.computed - names,
            stored=self.stored - names,
            too_sensitive=names,
            logits=self.logits - names,
        )


def choose(
    graphs: Mapping[str, Path],
    operators: Sequence[str],
    exclude: Iterable[str],
    *,
    products: bool,
    logits_in_float: bool,
) -> dict[str, NodeChoice]:
    """Choose the nodes of several graphs.

    Args:
        graphs: Name → graph, in the form that `prepare` gives.
        operators: Operator types that are quantized; `Gemm` means the products that were one before `prepare`.
        exclude: Patterns of node names that stay in float (`fnmatch`).
        products: Whether products of two activations are quantized too.
        logits_in_float: Whether products with a weight that make logits are stored in 8 bits and computed in float.

    Raises:
        QuantizationError: A pattern matches no node that would be quantized, or nothing is left to quantize.
    """
    surveys = {name: survey(path, operators) for name, path in graphs.items()}
    candidates = {
        name: frozenset(found.weighted + (found.unweighted if products else ())) for name, found in surveys.items()
    }
    patterns = tuple(exclude)
    every = [node for names in candidates.values() for node in names]
    for pattern in patterns:
        if not any(fnmatchcase(node, pattern) for node in every):
            msg = (
                f"exclude: {pattern!r} matches none of the {len(every)} nodes that would be quantized; "
                f"expected a pattern of names such as {', '.join(near_names(pattern, every))}"
            )
            raise QuantizationError(msg)
    choices = {}
    for name, path in graphs.items():
        kinds = {node.name: node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
        left = frozenset(node for node in candidates[name] if any(fnmatchcase(node, pattern) for pattern in patterns))
        kept = candidates[name] - left
        lookups = frozenset(node for node in kept if kinds[node] == "Gather" and node in surveys[name].unweighted)
        kept -= lookups  # a look-up in an activation holds no bytes and computes nothing
        logits = logit_products(path) & kept if logits_in_float else frozenset()
        stored = logits | {node for node in kept if kinds[node] in STORED_OPERATORS}
        choices[name] = NodeChoice(
            kept - stored,
            stored,
            left,
            frozenset(node for node in surveys[name].unweighted if kinds[node] != "Gather" and node not in kept | left),
            logits=logits,
        )
    if not any(choice.computed or choice.stored for choice in choices.values()):
        msg = f"nothing is left to quantize: no {', '.join(operators)} node with weights outside of `exclude`"
        raise QuantizationError(msg)
    return choices
