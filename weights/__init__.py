"""Adapter files: formats, reading, validation, conversion, download."""
