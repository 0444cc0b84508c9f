"""The driver: starts a run, is the only writer of its training entries, shows it, and ends it with an exit code.

launch.py       store, data, Ray, recorder, Ray Train; waits for the end
resources.py    what the workers need of Ray: refused on one machine, waited for on a cluster
stages.py       each stage's data, prepared or found, checked against the specification
recorder.py     the actor that all ranks talk to; the ledger's training writer
attempts.py     how many groups in a row ended without a new checkpoint
resume.py       the checkpoint from which an attempt goes on
environment.py  what an attempt ran on
labels.py       names of checkpoints
service.py      /status and /metrics
metrics.py      the run's Prometheus metrics
progress.py     what a person sees
"""
