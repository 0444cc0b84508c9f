"""Checkpoints come and go: a release's checkpoint to compute with or as a Hugging Face folder, and such a folder as a
run's first weights.

    release ── opened.py ──▶ a decoder and its tokenizer, for evaluations and analyses
    release ── export.py ──▶ folder.py ──▶ config.json, model-*.safetensors, index, tokenizer, generation settings
    folder ── imports.py ──▶ weights with a manifest ── spec.model.weights ──▶ the first values of a run
    outputs.py: whether what is to be written can be, seen before the work

Tensors pass layer by layer, each checked against its digest, so to export or import no machine needs the memory of a
whole model.
"""
