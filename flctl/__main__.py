"""The program `flctl`, also as `python -m flctl`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line. Ctrl-C while it is imported ends the process with exit code 130."""
    try:
        from flctl.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
