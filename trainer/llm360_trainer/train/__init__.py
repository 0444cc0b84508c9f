"""What each rank does: claim an attempt through the recorder, load, step through the data, checkpoint.

entry.py     where Ray Train enters a rank's process
worker.py    the rank: process group, devices, attempts one after another
loop.py      one attempt: stages, segments, steps, checkpoints; a page
plan.py      the messages between ranks and the driver's recorder
settings.py  the resolved specification turned into the settings of model, optimizer and parallelism
"""
