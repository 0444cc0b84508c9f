"""Training a segment of a release anew to compare the bits: what `verify` cannot know, that the steps were made so."""
