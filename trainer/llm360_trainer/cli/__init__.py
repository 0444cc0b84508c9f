"""Commands that need the trainer; `llm360.cli.main` names them."""
