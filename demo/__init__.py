"""A world to run in: local servers that speak the real APIs, over a simulated world or a replay of recorded data.

One module per API in `apis/`, one module per area of the world in `worlds/`: adding a file adds it.
"""
