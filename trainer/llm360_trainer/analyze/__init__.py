"""Analyses of checkpoints: what each remembers, predicts and forgets.

analysis        `Analysis`, the one class to derive from; the entry points `llm360.analyses`
pieces          what is measured: samples of the chunks as a run's ledger binds them
work            checkpoints × pieces, each measured once, kept at once; then the entry in the ledger
losses          the loss of every token of texts of any length, in batches of any size
memorization    what greedy decoding gives back of the training data
perplexity      how well documents are predicted, those held out from training above all
forgetting      the loss on each chunk before and after it was trained on
"""
