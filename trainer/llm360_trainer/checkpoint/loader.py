"""Reads a checkpoint back into a model and its optimizer, whatever the number of ranks.

Digests are of whole files and tensors, but a rank needs only its rows. So first the ranks share the reading of
whole files (group g is hashed by rank `g mod W`) and agree on the outcome; only when every file is what the
manifest names does each rank fetch the byte ranges of its rows. Nothing is loaded before its digest is checked, and
what is fetched then are blocks whose checksums, taken in the first reading and shared with the outcome, still hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from llm360.errors import InputError, IntegrityError, StorageError, StorageUnavailableError
from llm360.release.checkpoint import CheckpointManifest
from llm360.storage import Storage
from llm360_trainer.checkpoint.layout import STATE_FOLDER, STATE_KINDS, Rename, state_name
from llm360_trainer.checkpoint.shards import holders, local_rows, num_rows, parameters_by_name, state_tensor, world
from llm360_trainer.checkpoint.tensorfile import LENGTH_BYTES, Extent, header_length, parse_header
from llm360_trainer.checkpoint.verify import BLOCK_BYTES, Finding, inspect_files, num_blocks, refuse_faulty

_RANGE_BYTES = 32 * 1024 * 1024  # of one request: enough to hide latency, and bounds memory to this × threads
_THREADS = 8
_ITEM_BYTES = torch.float32.itemsize


class _Read(NamedTuple):
    """A byte range of a file and the contiguous fp32 memory that takes it."""

    key: str
    start: int
    target: torch.Tensor


class _CheckedFiles:
    """Ranges of files every block of which is still the one that was hashed.

    Args:
        storage: Rooted at the checkpoint.
        checksums: CRC32 of each file's blocks.
    """

    def __init__(self, storage: Storage, checksums: Mapping[str, Sequence[int]]) -> None:
        self._storage, self._checksums = storage, checksums

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """As `Storage.get_range`, but not shorter.

        Raises:
            StorageError: other bytes than before. Only this rank knows, so it must not look like the verdict that all
                ranks share.
        """
        block = start // BLOCK_BYTES
        first = block * BLOCK_BYTES
        end = -(-(start + length) // BLOCK_BYTES) * BLOCK_BYTES
        data = memoryview(self._storage.get_range(key, first, end - first))
        found = [zlib.crc32(data[offset : offset + BLOCK_BYTES]) for offset in range(0, len(data), BLOCK_BYTES)]
        wanted = data[start - first : start - first + length]
        if found != list(self._checksums[key][block : block + len(found)]) or len(wanted) != length:
            raise StorageError(
                f"{key} no longer holds at bytes {start} to {start + length} what was verified just before; start again"
            )
        return wanted


def load_state(
    storage: Storage,
    prefix: str,
    manifest: CheckpointManifest,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    rename: Rename,
) -> None:
    """Set weights, moments and step count to those of a checkpoint; a collective of all ranks.

    Args:
        storage: Rooted at the release.
        prefix: The checkpoint's folder.
        manifest: Its digest is already checked against the ledger's entry.
        model: Sharded as it will train, on any number of ranks.
        optimizer: AdamW whose moments and step counts exist, as `build_optimizer` makes it; filled in place.
        rename: From a parameter's name in the module to its Hugging Face name.

    Raises:
        IntegrityError: on all ranks; names the files that are missing or hold other bytes. Nothing was loaded.
        InputError: the checkpoint's tensors are not those of this model.
    """
    parameters = parameters_by_name(model, rename)
    _check_shapes(prefix, manifest, parameters)
    checksums = _verify_together(storage, prefix, manifest, next(iter(parameters.values())).device)
    files = _CheckedFiles(storage.at(prefix), checksums)
    with torch.no_grad(), ThreadPoolExecutor(_THREADS, thread_name_prefix="load-checkpoint") as pool:
        keys = sorted({record.file for record in manifest.state})
        extents = {
            name: extent for part in pool.map(lambda key: _read_header(files, key), keys) for name, extent in part
        }
        reads = [
            read
            for name, parameter in sorted(parameters.items())
            for kind, target in _targets(parameter, optimizer).items()
            for read in _reads_of(name, parameter, target, *_locate(state_name(name, kind), parameter, extents))
        ]
        for _ in pool.map(lambda read: _fetch(files, read), reads):
            pass
        for parameter in parameters.values():
            optimizer.state[parameter]["step"].fill_(manifest.step)


def _check_shapes(prefix: str, manifest: CheckpointManifest, parameters: Mapping[str, nn.Parameter]) -> None:
    """Compare the manifest's state with the model's parameters, before a byte is read."""
    stored = {record.name: (record.dtype, record.shape) for record in manifest.state}
    wanted = {state_name(n, kind): ("F32", tuple(p.shape)) for n, p in parameters.items() for kind in STATE_KINDS}
    if stored == wanted:
        return
    name = min(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
    raise InputError(
        f"checkpoint {prefix} is not of this model: '{name}' is {stored.get(name, 'absent')} there and"
        f" {wanted.get(name, 'absent')} here; resume with the configuration that wrote it",
        reason="CheckpointMismatch",
    )


def _verify_together(
    storage: Storage, prefix: str, manifest: CheckpointManifest, device: torch.device
) -> dict[str, list[int]]:
    """Share the state's files among the ranks, hash them, and refuse on all ranks what one of them found faulty.

    Returns:
        The checksums of each file's blocks, by its key.
    """
    rank, world_size = world()
    files = manifest.part(STATE_FOLDER)
    findings = torch.full((len(files),), Finding.FINE, dtype=torch.int64)
    checksums = [torch.zeros(num_blocks(file), dtype=torch.int64) for file in files]
    failure: StorageError | None = None
    try:
        inspections = inspect_files(storage, prefix, files[rank::world_size])
        for index, inspection in zip(range(rank, len(files), world_size), inspections, strict=True):
            findings[index] = inspection.finding
            if inspection.finding is Finding.FINE:
                checksums[index] = torch.tensor(inspection.checksums, dtype=torch.int64)
    except StorageError as error:
        # Raised only after the others have heard of it: they would wait for this rank for ever.
        findings[rank::world_size] = Finding.UNREAD
        failure = error
    if world_size > 1:
        shared = torch.cat([findings, *checksums]).to(device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        findings, *checksums = torch.split(shared.cpu(), [len(files), *map(num_blocks, files)])
    refuse_faulty(prefix, files, [Finding(finding) for finding in findings.tolist()])
    if failure is not None:
        raise failure
    if (findings == Finding.UNREAD).any():
        raise StorageUnavailableError(f"checkpoint {prefix} could not be read by another rank; see its message")
    return {file.key: sums.tolist() for file, sums in zip(files, checksums, strict=True)}


def _read_header(files: _CheckedFiles, key: str) -> list[tuple[str, tuple[str, Extent]]]:
    """The tensors of a state file: name, file and where they lie in it."""
    length = header_length(bytes(files.get_range(key, 0, LENGTH_BYTES)))
    extents = parse_header(bytes(files.get_range(key, LENGTH_BYTES, length)), key)
    return [(name, (key, extent)) for name, extent in extents.items()]


def _locate(name: str, parameter: nn.Parameter, extents: Mapping[str, tuple[str, Extent]]) -> tuple[str, Extent]:
    """The file and place of a tensor, which must be as the manifest says."""
    file, extent = extents.get(name, ("", None))
    if extent is None or (extent.dtype, extent.shape) != ("F32", tuple(parameter.shape)):
        raise IntegrityError(f"the manifest lists '{name}' as F32 of {tuple(parameter.shape)}, its file has {extent}")
    return file, extent


def _targets(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """This rank's memory of a parameter's master weight and moments, by kind."""
    return {kind: local_rows(state_tensor(parameter, optimizer, kind)) for kind in STATE_KINDS}


def _reads_of(name: str, parameter: nn.Parameter, target: torch.Tensor, file: str, extent: Extent) -> Iterator[_Read]:
    """The byte ranges that hold this rank's rows of one tensor."""
    rank, _ = world()
    rows = next(rows for rows in holders(name, parameter, rank) if rows.rank == rank)
    start = extent.start + rows.start * (parameter.numel() // num_rows(parameter)) * _ITEM_BYTES
    if rows.stop > rows.start:
        for piece in torch.split(target.view(-1), _RANGE_BYTES // _ITEM_BYTES):
            yield _Read(file, start, piece)
            start += piece.numel() * _ITEM_BYTES


def _fetch(files: _CheckedFiles, read: _Read) -> None:
    """Read one range into its memory."""
    data = files.get_range(read.key, read.start, read.target.numel() * _ITEM_BYTES)
    read.target.copy_(torch.frombuffer(bytearray(data), dtype=torch.float32))
