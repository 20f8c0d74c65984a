"""Node shells: a schema with tooltips, then a few lines that call the layers below."""
