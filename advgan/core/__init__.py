"""Shared foundations: threat model, settings from flags and YAML, files, errors. Imports no other part."""
