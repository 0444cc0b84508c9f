"""Checkpoints come and go: a release's checkpoint as a Hugging Face folder, and such a folder as a run's first weights.

    release ── export.py ──▶ folder.py ──▶ config.json, model-*.safetensors, index, tokenizer, generation settings
    folder ── imports.py ──▶ weights with a manifest ── spec.model.weights ──▶ the first values of a run

Tensors pass layer by layer, each checked against its digest, so no machine needs the memory of a whole model.
"""
