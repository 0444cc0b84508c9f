"""The release: where it lies, the ledger that binds it, its manifests, and their verification."""
