"""The subcommands of `flctl dp`."""
