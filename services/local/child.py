"""Runs a command in such a way that it ends with the process that started it.

Run as a script, with the standard library only: ``python -I -S child.py PARENT_PID DEATH_FD COMMAND…``. It replaces
itself by the command, so the process id stays. On Linux the kernel kills the command when the thread that started it
ends. Elsewhere a small watcher process waits for the other end of a pipe to close, which happens when the starter ends
in whatever way, and kills the command then.
"""

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1
NO_FD = -1


def main(arguments: list[str]) -> None:
    """Arranges the end and becomes the command.

    Args:
        arguments: The starter's process id; the reading end of a pipe that the starter holds open, or -1 where the
            kernel watches; the command and its arguments.
    """
    parent, death_fd, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if death_fd == NO_FD:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            raise SystemExit(1)
    else:
        _start_watcher(os.getpid(), death_fd)
        os.close(death_fd)
    try:
        os.execv(command[0], command)  # noqa: S606 - the command comes from our own code
    except OSError as error:
        raise SystemExit(f"{command[0]}: cannot be run: {error.strerror}") from error


def _start_watcher(command_pid: int, death_fd: int) -> None:
    """Leaves a process behind that kills the command once the starter is gone, and ends with the command."""
    command_end, held_by_command = os.pipe()
    os.set_inheritable(held_by_command, True)
    if os.fork() == 0:
        os.setsid()
        os.close(held_by_command)
        ready, _, _ = select.select([command_end, death_fd], [], [])
        if command_end not in ready:
            os.kill(command_pid, signal.SIGKILL)
        os._exit(0)
    os.close(command_end)


if __name__ == "__main__":
    main(sys.argv[1:])
