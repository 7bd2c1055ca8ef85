"""Titles in SQL: what an alert says when it fires. domain/figures.py says the same of values and streams."""

from __future__ import annotations

from domain.figures import DATES, DIGITS, PERCENT
from domain.measures import MEASURES


def _rounded(value: str, decimals: int, digits: int = 1) -> str:
    places = f"{digits - 1} - floor(log(nullif(abs({value}), 0)::float8))::int"
    return f"trim_scale(round({value}, greatest({decimals}, {places})))"


def _worked_out(stream: str, decimals: int | None) -> str:
    """Whether a stream is of measures of bars that are read with so many decimals."""
    found = [m.name.rstrip("0123456789") for m in MEASURES.values() if m.by_bar and m.decimals == decimals]
    return f"{stream} ~ '^({'|'.join(sorted(set(found)))})[0-9]*(@|$)'"


def figure(value: str, stream: str) -> str:
    """SQL for a value of a stream as people read it."""
    decimals = sorted({m.decimals for m in MEASURES.values() if m.by_bar and m.decimals is not None})
    bounded = [f"when {_worked_out(stream, n)} then {_rounded(value, n)}::text" for n in decimals]
    return f"""case when {stream} = 'price' then trim_scale({value})::text
      when strpos({stream}, '/') > 0 then {_rounded(value, PERCENT)} || ' %%'
      {" ".join(bounded)} when {_worked_out(stream, None)} then {_rounded(value, 0, DIGITS)}::text
      else trim_scale({value})::text end"""


def name(subject: str, stream: str) -> str:
    """SQL for the name of a stream as people read it."""
    return f"""case {stream} when 'price' then {subject} else {_of(subject, stream)}
      || coalesce(' (' || substring({stream} from '@([^/]*)') || ')', '')
      || coalesce(' (' || {_since(f"substring({stream} from '/(.*)')")} || ')', '') end"""


def _of(subject: str, stream: str) -> str:
    measure = f"replace(substring({stream} from '^[^@/]*'), '_', ' ')"
    return f"{subject} || case when {stream} like 'price%%' then '' else ' ' || {measure} end"


def _since(base: str) -> str:
    return f"case {base} when 'close' then 'since the close' else 'in ' || {base} end"


_DATES = " ".join(f"when '{measure}' then ' {does} on '" for measure, does in DATES.items())
_TOUCHED = """case d.touches when 0 then '' when 1 then ', after touching it once'
  else ', after touching it ' || d.touches || ' times' end"""

# Of an alert `d` that fires: what has happened comes with its words, a change since the creation with both prices.
# `t` are the value and its stream as people read them; by `offset 0` they stand in the plan, and are worked out, once.
SAID = f"""select {figure("d.value", "d.stream")} as value, {name("d.subject", "d.stream")} as name offset 0"""
TITLE = f"""
case when d.condition = 'within' then d.subject || case d.measure {_DATES} else ' ' || d.measure || ' is on ' end
       || to_char(to_timestamp(d.value::float8),
                  case when d.measure like '%%_date' then 'FMDD Mon YYYY' else 'FMDD Mon YYYY HH24:MI "UTC"' end)
     when d.condition = 'happens' then d.subject || ': ' || coalesce(d.about, d.measure)
     when d.base is not null then {_of("d.subject", "d.stream")}
       || case d.condition when 'percent_up' then ' is up ' else ' is down ' end
       || case d.base when 'creation'
            then {_rounded("(abs(d.value / d.base_value - 1) * 100)", PERCENT)} || ' %% at ' || t.value
                 || ', from ' || trim_scale(d.base_value)
            else ltrim(t.value, '-') || ' ' || {_since("d.base")} end || {_TOUCHED}
     when d.about is not null then d.subject || ': ' || d.about
       || case d.measure when 'dividend' then '' else ' (' || d.measure || ' ' || t.value || ')' end
     else t.name || case d.condition
       when 'crosses' then ' crossed ' || trim_scale(d.target) || case d.direction
         when 'up' then ' upwards, at ' else ' downwards, at ' end || t.value
       else case when d.measure = 'price' and d.stream <> 'price' then ' closed at ' else ' is at ' end || t.value
         || case d.condition when 'equals' then ', equal to ' else ', ' || d.condition || ' ' end
         || trim_scale(d.target) end
       || {_TOUCHED} end"""
