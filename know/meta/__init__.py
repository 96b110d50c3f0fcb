"""The meta-dataset of weight paths, and meta-training on it."""
