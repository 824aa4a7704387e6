"""The networks of this package, and frozen backbones of others."""
