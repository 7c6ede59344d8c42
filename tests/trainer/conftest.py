"""Fixtures of the trainer's tests."""

from tests.trainer.runs import parts  # noqa: F401
