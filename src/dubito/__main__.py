"""The console script and ``python -m dubito``: signals are handled before anything large is imported."""

from dubito import interrupts


def main():
    """Run the command line in a process of its own."""
    interrupts.start()
    try:
        from dubito.cli import main as run

        run()
    finally:
        interrupts.leave()


if __name__ == "__main__":
    main()
