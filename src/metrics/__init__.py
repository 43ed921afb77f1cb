"""Multi-label metrics as pure functions of scores and targets."""

from src.metrics.protocol import DEFAULT_PROTOCOL, Protocol

__all__ = ["DEFAULT_PROTOCOL", "Protocol"]
