"""Pairs to learn from, and the trainer that makes an adapter of them."""
