"""How we tell: one module per channel, `send(target, message)`."""
