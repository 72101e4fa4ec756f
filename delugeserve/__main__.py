"""``python -m delugeserve``, as torchrun and supervisors start it."""

from delugeserve.cli import main

if __name__ == "__main__":
    main()
