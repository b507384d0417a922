"""`python -m flctl` is `flctl`."""

from flctl.cli import main

if __name__ == "__main__":
    main()
