"""The forgetting curve: the loss on each chunk before it was trained on, just after, and ever after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from llm360.release.analyses import Cell, Figure
from llm360_trainer.analyze.analysis import Analysis, Measured, Subject, cells_by_source, means
from llm360_trainer.analyze.losses import sequence_losses
from llm360_trainer.analyze.pieces import ChunkSample


class Forgetting(Analysis):
    """Checkpoints on chunks, by the tokens trained on since the chunk."""

    name = "forgetting"
    summary = "the loss of each checkpoint on each chunk, before and after the chunk was trained on"
    reads = "a sample of each data chunk's rows"
    writes = (
        "per row: its source and the mean loss of its labels in nats; labels that the loss mask leaves out do not count"
    )
    figures = (
        Figure(
            key="forgetting",
            kind="lines",
            title="Loss on a chunk, by the tokens since it was trained on (nats)",
            caption="Left of 0: before the chunk was read. A line that rises to the right of 0 is forgetting.",
            value="loss",
            error="loss_stderr",
            x="tokens_since",
            x_label="tokens since the chunk's end",
        ),
        Figure(
            key="loss-by-source",
            kind="lines",
            title="Loss on the training data by source (nats)",
            caption="Mean over the sampled rows of all chunks.",
            value="loss",
            error="loss_stderr",
            by="source",
        ),
    )

    def measure(self, subject: Subject, piece: ChunkSample, settings: Mapping[str, Any]) -> pa.Table:  # noqa: ARG002
        """The rows' losses."""
        rows = piece.read
        losses = np.stack(sequence_losses(subject.decoder, rows.ids.astype(np.int64).tolist(), subject.batch_size))
        counted = np.ones(losses.shape) if rows.loss_mask is None else rows.loss_mask.astype(np.float64)
        kept = counted.sum(axis=1) > 0  # a row without any label that counts has no loss
        mean = (losses * counted).sum(axis=1)[kept] / counted.sum(axis=1)[kept]
        return pa.table(
            {
                "row": pa.array(piece.rows[kept], pa.int64()),
                "trained": pa.array((piece.rows < piece.num_trained)[kept]),
                "source": pa.array(np.array(piece.sources)[kept], pa.string()),
                "loss": pa.array(mean, pa.float64()),
            }
        )

    def cells(self, measured: Measured) -> list[Cell]:
        """Mean losses, and how long ago the chunk was trained on."""
        assert isinstance(measured.piece, ChunkSample)
        since = measured.checkpoint.body.tokens - measured.piece.trained_tokens
        return cells_by_source(measured, lambda table: {**means(table), "tokens_since": float(since)})
