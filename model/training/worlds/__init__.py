"""Synthetic worlds: endless seeded videos and questions with exact answers."""

from .make import KINDS, make_world
from .questions import Question
from .world import Placement, World

__all__ = ["KINDS", "Placement", "Question", "World", "make_world"]
