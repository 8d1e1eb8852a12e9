"""`python -m qpeft` is `qpeft`: how torchrun and `accelerate launch` start it."""

from qpeft.cli import main

if __name__ == "__main__":
    main()
