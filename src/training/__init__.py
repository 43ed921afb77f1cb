"""Train a model: from the flags of train.py to checkpoints, a log and a report."""
