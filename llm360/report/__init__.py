"""What a person sees of a release: its status, a summary in text, and the report as one HTML page.

All of it is a view. Every figure is derived from the ledger and from the metrics segments that it names.
"""
