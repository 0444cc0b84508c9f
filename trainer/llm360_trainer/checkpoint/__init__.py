"""Checkpoints of a sharded model: gathered by layer, written behind the training, read back by any number of ranks.

How the pieces fit, seen from the training loop and the driver:

    rank                                                     driver's recorder
    ────                                                     ─────────────────
    writer = CheckpointWriter(storage, rename=to_hf_name, model_dtype=…, model_files={"config.json": …, …})
    stall = writer.start(step, prefix, model, optimizer)     (all ranks, at the same step; blocks for the gather only)
    for part in writer.poll():   (after each step)
        send(part) ────────────────────────────────────────▶ parts of all ranks
    for part in writer.wait():   (before leaving)            manifest = merge_parts(parts, tokens=…, …)
        send(part)                                           storage.put(f"{prefix}/manifest.json", manifest.encode())
    writer.close()                                           ledger.append(checkpoint entry)

    load_state(storage, prefix, manifest, model, optimizer, rename=to_hf_name)    verifies, then loads; all ranks
                                                             verify_checkpoint_files(storage, prefix, manifest, "state")

`storage` is rooted at the release everywhere. A `RankPart` is a pydantic model: it pickles, or travels as JSON by
`model_dump(mode="json")` and `RankPart.model_validate`. Failures of the writing behind are raised by the next `start`,
`poll` or `wait`. `load_state` raises IntegrityError on every rank when a file is missing or differs: fall back to an
older checkpoint.
Parameters are known by their Hugging Face names; `rename` maps a module's to those.

    layout      which file holds which parameter, which rank writes it      pure
    tensorfile  the safetensors format, as a stream with digests
    shards      where rows live, and the gather
    upload      one rank's files, from host memory to the store
    writer      CheckpointWriter: the two above, one checkpoint at a time
    parts       RankPart, merge_parts                                       pure
    verify      files against the manifest
    loader      load_state

Import from the modules: the driver and its recorder know `parts` and `layout` alone, and start without torch.
"""
