"""The command line: one file a verb, each parses, calls its stage and prints. torch is imported only where it is used."""

from __future__ import annotations

import errno
import sys

from strataprobe.errors import StrataprobeError

# what a path of the user's can be wrong in: permissions, names, files where folders belong
_PLACE_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
USER_CAN_MEND, BUG, INTERRUPTED = 2, 1, 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its status: 0 done, 2 the user can mend it (one sentence), 1 a bug."""
    from strataprobe.cli.app import app

    try:
        app(args=arguments, prog_name="strataprobe")
    except StrataprobeError as error:
        _leave(str(error), USER_CAN_MEND)
    except SystemExit as left:  # how the command line library ends an interrupted command
        if left.code != INTERRUPTED:
            raise
        _leave("interrupted; the same command goes on where this one stopped.", INTERRUPTED)
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on where this one stopped.", INTERRUPTED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno == errno.ENOSPC:
            _leave(f"no space left on the disk{where}: free some, then run the same command again.", USER_CAN_MEND)
        if error.errno not in _PLACE_ERRORS:
            raise
        _leave(f"{error.strerror}{where}: choose another place or mend its permissions.", USER_CAN_MEND)


def _leave(sentence: str, status: int) -> None:
    print(f"strataprobe: {sentence}", file=sys.stderr)
    sys.exit(status)
