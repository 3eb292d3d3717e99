"""hico-tiny: a small VideoChat-Flash, trained from nothing on the synthetic worlds."""
