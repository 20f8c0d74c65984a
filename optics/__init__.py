"""The camera side: sweeps and their labels, colour transfer, contact sheets. No host import."""
