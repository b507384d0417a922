"""The `flctl secagg` command."""
