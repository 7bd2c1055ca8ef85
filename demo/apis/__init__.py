"""Stand-ins for real APIs, one module each: STAND_IN is its class."""
