"""A package, so that the browser lasts as long as these tests."""
