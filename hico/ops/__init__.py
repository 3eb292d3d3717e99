"""One file an op: registration, fake, autograd, checks and the public docstring."""
