"""The subcommands of `advgan`: `main.py` names the module of each."""
