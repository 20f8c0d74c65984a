"""How the commands end. Standard library only."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from setup.client import HostError
from setup.environment import SetupError


def told(work: Callable[[], int]) -> int:
    """The exit code of ``work``; what a person can mend is said in a sentence, and the code is 1."""
    try:
        return work()
    except (SetupError, HostError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"A file could not be used: {error}", file=sys.stderr)
    return 1


def command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run ``main`` with the command line's arguments and exit; a stopped command stops what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nStopped.")
        sys.exit(130)
