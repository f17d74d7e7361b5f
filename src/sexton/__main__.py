"""`python -m sexton` is `sexton`."""

from sexton.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
