"""Synthetic worlds: endless seeded videos and questions with exact answers."""
