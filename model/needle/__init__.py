"""Needles in long videos: what a model still finds, by the number of frames and the depth."""
