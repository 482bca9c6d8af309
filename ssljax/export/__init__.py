"""Networks in the names, layouts and files of other ecosystems, both ways."""

from ssljax.export.read import read_network
from ssljax.export.write import export_encoder, write_network

__all__ = ["export_encoder", "read_network", "write_network"]
