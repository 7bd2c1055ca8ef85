"""The operator's command, one module per group."""
