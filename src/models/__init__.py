"""Backbones and the principal-embedding-matrix head."""

from src.models.sdl_model import SDLModel, create_model

__all__ = ["SDLModel", "create_model"]
