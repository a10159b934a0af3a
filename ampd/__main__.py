"""The command `ampd`: the daemon in the foreground."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import trio

import ampd
from ampd import config, logs
from ampd.model.errors import CODES, AmpdError, in_one_line
from ampd.model.visible import visible


def parser() -> argparse.ArgumentParser:
    """The flags of `ampd`."""
    made = argparse.ArgumentParser(
        prog="ampd",
        description="A local-first peer daemon with a durable mailbox for AI agents. Runs in the "
        "foreground; `amp daemon start` runs it in the background. `ampd relay --help` is about "
        "keeping mail for others.",
    )
    made.add_argument("--home", metavar="DIR", help="data, config and sockets in one folder")
    made.add_argument("--config", metavar="FILE", help="read FILE instead of config.toml")
    made.add_argument(
        "--gateway", metavar="ADDRESS", help="serve AMP and AMTP over HTTP, on 127.0.0.1:23000 say"
    )
    made.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    made.add_argument("--log-format", metavar="FORM", help="auto, text, journald or json")
    made.add_argument(
        "--check", action="store_true", help="say what would keep it from starting, and exit"
    )
    made.add_argument("--version", action="version", version=f"ampd {ampd.__version__}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon until it is stopped; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.umask(0o077)  # whatever is made from here on is this user's alone
    if words[:1] == ["relay"]:
        from ampd import relay_daemon

        return attempt(lambda: relay_daemon.main(words[1:]))
    flags = parser().parse_args(words)

    def load() -> config.Config:
        return config.load(
            home=flags.home,
            config_file=flags.config,
            environ=os.environ,
            gateway=flags.gateway,
            log_level=flags.log_level,
            log_format=flags.log_format,
        )

    def serve() -> None:
        settings = load()
        logs.configure(settings.log.level, settings.log.format, os.environ, sys.stderr)
        if flags.check:
            from ampd.preflight import check

            check(settings)
            return
        from ampd.daemon import Daemon

        trio.run(Daemon(settings, load).run)

    return attempt(serve)


def attempt(run: Callable[[], None]) -> int:
    """Run it; say what went wrong; the exit code."""
    try:
        run()
    except AmpdError as exc:
        return complain(exc)
    except BaseExceptionGroup as group:
        told = group.subgroup(AmpdError)
        if told is None or group.split(AmpdError)[1] is not None:
            raise
        return complain(first_of(told))
    return 0


def first_of(group: BaseExceptionGroup[BaseException]) -> AmpdError:
    """The first error of a group of them."""
    inner = group.exceptions[0]
    if isinstance(inner, BaseExceptionGroup):
        return first_of(inner)
    assert isinstance(inner, AmpdError)  # noqa: S101 - the caller asked for this kind only
    return inner


def complain(exc: AmpdError) -> int:
    """Say in one line what went wrong and what mends it; the exit code."""
    what = visible(in_one_line(str(exc), exc.hint), lines=False)
    sys.stderr.write(f"ampd: error: {what}\n")
    return CODES[exc.code]


if __name__ == "__main__":
    sys.exit(main())
