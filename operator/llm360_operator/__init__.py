"""The operator's package. It holds its layer (see `pyproject.toml`); no controller is written yet."""
