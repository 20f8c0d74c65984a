"""All that touches a MODEL: the mathematics, who is who in a batch, and the installation on a host model."""
