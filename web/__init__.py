"""What we show: one small ASGI process with status, metrics, live events, the operator's page, rq-dashboard."""
