"""`python -m dvis_cli` is `dvis`."""

from dvis_cli.cli import main

if __name__ == "__main__":
    main()
