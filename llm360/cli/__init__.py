"""The command line `llm360 …`: commands translate arguments and call. `kube` has those of `kubectl llm360 …`."""
