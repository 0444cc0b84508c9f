"""Single tensors out of safetensors files in a store, each checked against its own digest before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError
from llm360.release.checkpoint import TensorRecord
from llm360.release.weights import load_weights_manifest
from llm360.spec.model import Weights
from llm360.storage import Storage, StorageOptions, open_storage
from llm360_trainer.checkpoint.layout import Rename
from llm360_trainer.checkpoint.tensorfile import DTYPE_NAMES, LENGTH_BYTES, header_length, parse_header

TORCH_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def read_tensors(root: Storage, records: Mapping[str, TensorRecord]) -> dict[str, Tensor]:
    """Tensors in the dtype in which they are stored, by the mapping's names.

    Args:
        root: Rooted at the folder that the records' files are relative to.
        records: What is to be read, and its digests.

    Raises:
        IntegrityError: a file has no such tensor, or it holds other bytes than recorded.
        StorageError: the files cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted({record.file for record in records.values()}):
        length = header_length(root.get_range(file, 0, LENGTH_BYTES))
        extents = parse_header(root.get_range(file, LENGTH_BYTES, length), file)
        for name, record in records.items():
            if record.file != file:
                continue
            extent = extents.get(record.name)
            if extent is None or (extent.dtype, extent.shape) != (record.dtype, record.shape):
                raise IntegrityError(f"{root.uri}/{file} has no tensor '{record.name}' as its manifest lists it")
            data = root.get_range(file, extent.start, extent.stop - extent.start)
            if sha256_digest(data) != record.sha256:
                raise IntegrityError(f"{root.uri}/{file}: tensor '{record.name}' holds other bytes than recorded")
            values = torch.frombuffer(bytearray(data), dtype=TORCH_DTYPES[record.dtype])
            tensors[name] = values.reshape(record.shape)
    return tensors


def imported_values(
    weights: Weights, options: StorageOptions, rename: Rename
) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Full fp32 tensors of imported weights, for `llm360_trainer.parallel.fill`.

    Args:
        weights: `spec.model.weights`.
        options: How storage is reached.
        rename: From a parameter's name in the module to its Hugging Face name.

    Raises:
        InputError: there are no such weights.
        IntegrityError: (from the function returned) a tensor is missing, of another shape, or holds other bytes.
    """
    storage = open_storage(weights.uri, options)
    records = {record.name: record for record in load_weights_manifest(storage, weights.digest).tensors}

    def values(name: str, shape: tuple[int, ...]) -> Tensor:
        record = records.get(rename(name))
        if record is None or record.shape != shape:
            found = "no such tensor" if record is None else f"shape {list(record.shape)}"
            raise IntegrityError(f"the weights at {storage.uri} have {found} where '{name}' is {list(shape)}")
        return read_tensors(storage, {name: record})[name].float()

    return values
