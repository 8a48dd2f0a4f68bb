"""The commands of `advgan`, a file each: its docstring is its help, `Settings` its flags, `main(settings)` its work.

`advgan/cli.py` finds them by name and imports only the one that is asked for.
"""
