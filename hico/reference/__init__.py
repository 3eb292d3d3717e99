"""The ops in a few lines of plain PyTorch: the specification, and the path on a CPU."""
