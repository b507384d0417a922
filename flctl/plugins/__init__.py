"""Plugins: hooks, the registry, plugin files, and templates of new plugins."""
