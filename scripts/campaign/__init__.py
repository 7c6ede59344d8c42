"""The parts of scripts/torture.py: kills, corrupted inputs, memory."""
