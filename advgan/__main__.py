"""`python -m advgan` is the command `advgan`; `torchrun --nproc-per-node 2 -m advgan` starts it in two processes."""

from advgan.cli.main import main

if __name__ == "__main__":
    main()
