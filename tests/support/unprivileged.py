"""What a user without root's rights may do: root writes into folders that nobody may write to."""

import os
from collections.abc import Callable

_NOBODY = 65534


def holds_for_a_user(check: Callable[[], bool]) -> bool:
    """Runs a check in a fork that has no root's rights; False too where it raises."""
    child = os.fork()
    if not child:
        code = 1
        try:
            if os.getuid() == 0:
                os.setuid(_NOBODY)
            code = int(not check())
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0
