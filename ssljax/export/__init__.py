"""Encoders in the names, layouts and files of other ecosystems."""

from ssljax.export.write import export_encoder

__all__ = ["export_encoder"]
