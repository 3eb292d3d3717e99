"""Training: the published recipe, its data, and synthetic worlds with exact answers."""
