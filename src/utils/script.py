"""The frame of every script: what reaches the terminal, and the exit status.

=====  ==========================================================================================
 0     done
 1     some images could not be read or written (named and counted); ``verify``: a file differs
 2     a mistake in the call, in a file, or of the machine's disk and memory: one line says what
 3     training stopped because its loss was no finite number
 70    a bug of the program: traceback, and a line that asks to report it
 130   Ctrl-C
 141   the reader of the output closed it, as in ``script | head``
 143   SIGTERM
=====  ==========================================================================================

Imports next to nothing, so that Ctrl-C while a script imports the rest is one line.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

SOME_IMAGES, MISTAKE, NOT_FINITE, BUG, CLOSED_PIPE = 1, 2, 3, 70, 141


def run_script(name: str, main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a script's main function and return the exit status; no exception leaves it.

    Args:
        name: of the script, in front of every message.
        main: takes ``argv`` and returns a status; raises :class:`UserError` for mistakes.
        argv: the arguments; None takes those of the process.
    """
    try:
        from src.utils.terminal import guarded_terminal

        with guarded_terminal():
            status = _status(name, lambda: main(argv))
            return _status(name, _flush) or status
    except KeyboardInterrupt:  # before or after the guard
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _flush() -> int:
    sys.stdout.flush()
    return 0


def _status(name: str, step: Callable[[], int]) -> int:
    """Run a step of a script; turn every exception into a message and a status."""
    from src.errors import UserError, first_line
    from src.text import on_lines, on_screen
    from src.utils.terminal import OutputError, signal_received

    def failed(message: object) -> int:
        print(f"{name}: error: {on_lines(message)}", file=sys.stderr)
        return MISTAKE

    try:
        return step()
    except SystemExit as exit_:  # argparse after --help
        return exit_.code if isinstance(exit_.code, int) else 0
    except UserError as error:
        return failed(error)
    except (OutputError, BrokenPipeError) as error:
        if error.errno == errno.EPIPE:
            return CLOSED_PIPE
        return failed(f"standard output cannot be written: {error.strerror}; write it to another place")
    except KeyboardInterrupt:
        return _stopped(name, signal_received())
    except Exception as error:  # noqa: BLE001 -- the last boundary of all
        if number := signal_received():  # libraries make errors of their own of it, above all while being imported
            return _stopped(name, number)
        if _lacks_memory(error):
            return failed(
                f"not enough memory ({first_line(error)}); give smaller batches or images, or fewer workers, if the "
                "script has such flags"
            )
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            return failed(f"{on_screen(error.filename)}: {error.strerror}; make it readable and its disk writable")
        _print_bug(name, error)
        return BUG


def _stopped(name: str, number: int) -> int:
    from src.utils.ranks import is_one_of_many

    if number == 15 and is_one_of_many():  # torchrun ends them all when one has failed, which says why
        return 128 + number
    print(f"{name}: {'terminated' if number == 15 else 'interrupted'}", file=sys.stderr)
    return 128 + (number or 2)


def _lacks_memory(error: Exception) -> bool:
    """Return whether the machine, a GPU or an allocator of PyTorch ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "Storage size calculation")
    )


def _print_bug(name: str, error: Exception) -> None:
    import traceback

    from src.text import on_screen

    lines = "".join(traceback.format_exception(error)).splitlines()
    print("\n".join(map(on_screen, lines)), file=sys.stderr)
    print(f"{name}: a bug of this program, not of yours: please report it with the lines above", file=sys.stderr)
