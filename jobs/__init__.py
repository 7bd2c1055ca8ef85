"""What runs: one module per area, a few jobs each. Read, decide, write, return counts."""
