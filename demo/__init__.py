"""A world to run in: local servers that speak the real APIs."""
