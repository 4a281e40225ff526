"""``python -m strataprobe``: the command line."""

from strataprobe.cli import main

if __name__ == "__main__":
    main()
