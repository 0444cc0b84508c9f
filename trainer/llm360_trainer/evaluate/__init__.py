"""Evaluations of a release's checkpoints by lm-evaluation-harness: its tasks and its result format, our model.

ledger ── run.py ──▶ which checkpoints lack which results
   │        ├── tasks.py     names to the harness's descriptions
   │        ├── data.py      their data, from the hub or a mirror (mirror.py)
   │        ├── harness.py   one task on one model: seeds, shots, samples that crash
   │        │      └── model.py   the checkpoint as the harness sees it
   │        │             ├── scoring.py      log-likelihoods; shared beginnings once (prefixes.py)
   │        │             └── generating.py   greedy text up to a stop
   │        └── results.py   what is left of it
   ◀── an `eval` entry, once all files are there
"""
