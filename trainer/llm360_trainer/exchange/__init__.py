"""Checkpoints come and go: a release's checkpoint as a Hugging Face folder, and such a folder as a run's first weights.

    release ── export.py ──▶ folder.py ──▶ config.json, model-*.safetensors, index, tokenizer, generation settings

Tensors pass layer by layer, each checked against its digest, so no machine needs the memory of a whole model.
"""
