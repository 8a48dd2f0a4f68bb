"""`python -m advgan` is the command `advgan`; `accelerate launch -m advgan` starts it in several processes."""

from advgan.cli import main

if __name__ == "__main__":
    main()
