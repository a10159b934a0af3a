"""The wall clock, in one place: everything below the daemon is given the time."""

import time


def wall_clock() -> int:
    """Milliseconds since 1970 in UTC."""
    return time.time_ns() // 1_000_000
