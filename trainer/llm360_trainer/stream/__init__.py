"""The rows of every step, streamed from object storage to each rank through Ray Data.

    StageOrder + manifest ──plan──▶ blocks (which shards' rows, for which steps)
                                      │ one read task per block, run on the rank's own node
    Storage ──verify once per node──▶ shard file ──row groups──▶ Arrow table in Ray's object store
                                      │ in order, a bounded number ahead, not copied
    training step ◀── numpy views of one step's rows ◀── position of every row checked

`plan` is pure, `shards` guards what is read, `source` is the `ray.data.Datasource`, `steps` the rank's iterator.
"""

from llm360_trainer.stream.shards import ShardCache
from llm360_trainer.stream.steps import StepRows, StepStream, stream_steps

__all__ = ["ShardCache", "StepRows", "StepStream", "stream_steps"]
