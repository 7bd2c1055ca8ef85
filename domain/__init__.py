"""What we know: pure functions and frozen dataclasses. No input or output, no clock, no log."""
