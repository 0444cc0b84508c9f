"""Prints what an offline run of Weights & Biases logged, one JSON object a line; run where wandb is installed.

The file is LevelDB's log: after 7 bytes of its own, blocks of 32 KiB of fragments, each with a head of checksum,
length and kind (1 whole, 2 first, 3 middle, 4 last); a record is a protocol buffer.
"""

import json
import struct
import sys
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD = 32768, struct.Struct("<IHB")
data = Path(sys.argv[1]).read_bytes()
position, parts = 7, b""
while position + HEAD.size <= len(data):
    left = BLOCK - position % BLOCK
    if left < HEAD.size:
        position += left
        continue
    _, length, kind = HEAD.unpack_from(data, position)
    parts += data[position + HEAD.size : position + HEAD.size + length]
    position += HEAD.size + length
    if kind in (1, 4):
        record, parts = Record.FromString(parts), b""
        if record.HasField("history"):
            items = record.history.item
            print(json.dumps({each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}))
