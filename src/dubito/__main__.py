"""The console script and ``python -m dubito``: signals are handled before anything large is
imported.
"""

import signal


def main() -> None:
    """Run the command line in a process of its own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while our handlers are imported, Ctrl-C leaves no traceback
    import dubito._process.interrupts as interrupts  # ``from dubito`` would ask the package's lazy names first

    interrupts.watch_signals()
    try:
        from dubito.cli.commands import main as run

        run()
    finally:
        interrupts.exit_if_interrupted()


if __name__ == "__main__":
    main()
