"""Entry point of ``python -m hpcsamp``."""

from hpcsamp.cli import main

if __name__ == "__main__":
    main()
