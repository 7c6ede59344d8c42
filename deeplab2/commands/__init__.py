"""Command lines around data, configs and runs; those of a part of the package live in that part."""
