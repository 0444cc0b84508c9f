"""A real Kubernetes with KubeRay, Kueue, an S3 server and Prometheus on this machine, for tests to stand on.

It stands alone: Python's standard library, Debian's packages and pinned Go modules, nothing of the rest of the project.
`python -m testbed --help` (in tests/) lists what it does; README.md says what runs, where from and how large.
"""
