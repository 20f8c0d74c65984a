"""A MODEL whose rows look at each other: equations, rows, the run, the installation on a host model."""
