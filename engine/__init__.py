"""How work moves: atomic steps in Redis, the worker and its warm horse, run history."""
