"""Prepared training data: what its manifest says, where its rows lie, and in which order they are read.

    manifest.json ──► chunks ──► shards (Parquet, rows in training order) ──► rows
         │                                                                     │
         └── tokenizer.json, sources, digests            order: step ──► rows ─┘

`manifest` describes a data set, `rows` reads rows back, `verify` checks the manifest against the bytes,
`show` renders a step for a person, and `order` maps steps to rows.
"""
