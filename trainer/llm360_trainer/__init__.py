"""The trainer: data preparation, streaming, model, parallelism, optimizer, loop and checkpoints."""
