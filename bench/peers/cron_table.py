"""The configuration of `rq cron bench.peers.cron_table`; BENCH_CRON says `interval` or `cron` (six fields)."""

from __future__ import annotations

import os

from rq import cron

from bench.peers import marks, stock

for entry, period in marks.periods().items():
    when = {"interval": period} if os.environ["BENCH_CRON"] == "interval" else {"cron": f"* * * * * */{period}"}
    cron.register(stock.tick, queue_name="default", args=(entry,), name=entry, **when)
