"""Semantic bokeh by two-stage prompting (GBSD): mixing prompts, splitting the steps, the hooks on the host."""
