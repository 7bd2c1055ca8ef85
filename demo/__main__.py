"""`python -m demo --env-file PATH`: the demo world until SIGTERM. The file appears when all is ready."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

from demo.journal import SEED, Journal, world_of
from demo.server import running

MAIL = Path(__file__).resolve().parent.parent / ".nightdesk" / "mail"


def main() -> None:
    """Serve until a signal comes."""
    options = _options()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running(
        seed=options.seed,
        replay=options.replay,
        speed=options.speed,
        start=options.start.timestamp() if options.start else None,
        mail_folder=options.mail,
        journal=options.journal,
    ) as demo:
        if options.env_file:
            _write(options.env_file, demo.environment)
        if options.traders:
            from demo.tape import Tape  # these need the database
            from demo.traders import Traders

            for part in (Traders(demo.world, options.seed), Tape(demo.world, options.seed)):
                threading.Thread(target=part.run, args=[stop], name=type(part).__name__, daemon=True).start()
        print(f"demo world at {demo.url}, mail at {demo.mail.url}", flush=True)
        stop.wait()
    if options.env_file:
        options.env_file.unlink(missing_ok=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="A world to run in, on loopback.")
    parser.add_argument("--env-file", type=Path, help="written when all is ready: the settings that lead here")
    parser.add_argument("--replay", type=_folder, help="a folder of recorded data instead of a simulated world")
    parser.add_argument("--seed", type=int, default=SEED, help="of the simulated world")
    parser.add_argument("--speed", type=_speed, default=1.0, help="how fast the world's time runs")
    parser.add_argument("--start", type=_instant, help="the simulated world's time at the start (ISO 8601)")
    parser.add_argument("--traders", action="store_true", help="with users who trade, in DATABASE_URL")
    parser.add_argument("--mail", type=Path, default=MAIL, help="the folder for the mails that it takes")
    parser.add_argument("--journal", type=Path, help="a file of what its chains lived through, to go on with them")
    options = parser.parse_args()
    if options.replay and options.start:
        parser.error("--start is for the simulated world: a replay begins with its first rows")
    try:
        options.journal = options.journal and Journal(options.journal, world_of(options.replay, options.seed))
    except ValueError as other:
        parser.error(str(other))
    return options


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed <= 100_000:
        raise argparse.ArgumentTypeError("a number above 0, at most 100,000")
    return speed


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _write(path: Path, environment: dict[str, str]) -> None:
    """All of it or nothing: whoever waits for the file finds it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    draft.replace(path)


if __name__ == "__main__":
    main()
