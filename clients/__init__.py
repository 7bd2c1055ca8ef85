"""How we ask: http.py and one module per outside API, `fetch_*` and `parse_*`."""
