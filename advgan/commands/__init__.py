"""The subcommands of `advgan`, a file each: its settings, and `main(settings)`. `advgan/cli.py` finds them by name."""
