"""Where the packages of this environment lie."""

import sys
from pathlib import Path


def site_packages():
    """The folders of sys.path that hold installed distributions."""
    return [path for path in sys.path if any(Path(path).glob("*.dist-info"))]
