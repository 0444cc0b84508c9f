"""The command line `llm360 …` (also `kubectl llm360 …`): commands translate arguments and call."""
