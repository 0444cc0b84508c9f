"""llm360: pretrain language models so openly that anyone can check how each checkpoint was made.

This package is the core that the operator and the trainer share: the run's specification, storage,
the data's order, the release and its ledger, the command line and the report. It imports neither
torch, nor ray, nor kopf, so that a researcher can verify a release without them.
"""

__version__ = "0.1.0"
