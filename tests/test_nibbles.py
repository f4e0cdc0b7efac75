"""Promises of values of 4 bits, two in a byte."""

from __future__ import annotations

import json

import torch

from hfcompress.nibbles import pack, pack_described, unpack


def test_every_pair_of_values_comes_back() -> None:
    """All 256 pairs take one byte each, every byte another one."""
    values = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8)
    packed = pack(values)

    assert (packed.dtype, tuple(packed.shape)) == (torch.uint8, (256, 1))
    assert len(packed.unique()) == 256
    assert torch.equal(unpack(packed), values)


def test_only_values_of_4_bits_are_packed() -> None:
    """The description says which tensors hold 4 bits; all others are left as they are."""
    tensors = {name: torch.ones(2, 8, dtype=torch.int8) for name in ("a._weight_qdata", "b._weight_qdata", "c")}
    types = {"a.weight": {"target_dtype": {"_type": "torch.dtype", "_data": "int4"}}, "b.weight": {"block_size": [1]}}
    metadata = {name: json.dumps({"_type": "IntxUnpackedToInt8Tensor", "_data": data}) for name, data in types.items()}
    packed = pack_described(tensors, {**metadata, "tensor_names": json.dumps(list(types))})

    assert {name: tensor.shape[1] for name, tensor in packed.items()} == {
        "a._weight_qdata": 4,
        "b._weight_qdata": 8,
        "c": 8,
    }
