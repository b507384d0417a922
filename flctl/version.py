"""Versions: of the package, and of the interface that plugins are written against."""

__all__ = ["API_VERSION", "__version__"]

__version__ = "0.1.0"
API_VERSION = "1.0"
