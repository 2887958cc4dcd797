"""Workers of one job meet before TensorFlow connects them: it waits without an end for those that never come, and names nobody.

The chief listens on its own address, which TensorFlow's server takes afterwards; the others come there and wait for all.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
import zlib
from collections.abc import Sequence

from tlt_prune.errors import WorkersError

_LINE = 100
"""Bytes of the longest line."""
_PAUSE = 0.2
"""Seconds between two tries to reach the chief."""
_GO = b"go\n"


def meet(addresses: Sequence[str], index: int, patience: float, source: str) -> None:
    """Returns when all workers are there.

    Args:
        addresses: "host:port" of each; the first is the chief's.
        index: number of this one.
        patience: seconds to wait.
        source: what named the addresses, for messages.

    Raises:
        WorkersError: some have not come in time, or one belongs to another job.
    """
    end = time.monotonic() + patience
    greeting = f"tlt_prune {zlib.crc32(' '.join(addresses).encode())} "
    if index:
        _come(addresses, index, greeting, end, patience, source)
    else:
        _receive(addresses, greeting, end, patience, source)


def _come(addresses: Sequence[str], index: int, greeting: str, end: float, patience: float, source: str) -> None:
    host, _, port = addresses[0].rpartition(":")
    reason, met = "it does not answer", False
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as chief:
                met = True
                chief.sendall(f"{greeting}{index}\n".encode())
                answer = _line(chief, end)
            if answer == _GO:
                return
            reason = "it belongs to another job" if answer else "it went away"
        except OSError as error:
            # Whom it had met and cannot reach any more has gone, however the system words it.
            reason = "it went away" if met else error.strerror or str(error) or reason
        time.sleep(min(_PAUSE, max(end - time.monotonic(), 0)))
    raise WorkersError(
        f"Worker {index} of {len(addresses)} ({addresses[index]}) waited {patience:.0f} s for worker 0 ({addresses[0]}): "
        f"{reason}. Start the same command on all hosts that {source} names."
    )


def _receive(addresses: Sequence[str], greeting: str, end: float, patience: float, source: str) -> None:
    port = int(addresses[0].rpartition(":")[2])
    there: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        try:
            door = stack.enter_context(socket.create_server(("", port), reuse_port=False))
        except OSError as error:
            raise WorkersError(
                f"Worker 0 cannot listen at {addresses[0]}: {error.strerror}. Expected an address of this machine with a free "
                f"port in {source}."
            ) from error
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(door, selectors.EVENT_READ)
        while len(there) < len(addresses) - 1:
            left = end - time.monotonic()
            if left <= 0:
                missing = [f"{i} ({addresses[i]})" for i in range(1, len(addresses)) if i not in there]
                raise WorkersError(
                    f"Worker 0 waited {patience:.0f} s for worker {', '.join(missing[:8])}. Start the same command on all hosts "
                    f"that {source} names."
                )
            if not selector.select(left):
                continue
            guest = stack.enter_context(door.accept()[0])
            number = _number(_line(guest, min(end, time.monotonic() + 1)), greeting, len(addresses))
            if number is None:
                with contextlib.suppress(OSError):
                    guest.sendall(b"another job\n")
                guest.close()
            else:
                # One that comes again lost its first connection.
                there[number] = guest
        for guest in there.values():
            guest.sendall(_GO)


def _number(line: bytes, greeting: str, count: int) -> int | None:
    """The worker that a greeting is from; None for a stranger."""
    text = line.decode("ascii", "replace").strip()
    number = text.removeprefix(greeting)
    known = text.startswith(greeting) and number.isascii() and number.isdigit() and 0 < int(number) < count
    return int(number) if known else None


def _line(connection: socket.socket, end: float) -> bytes:
    """A line; what there is of it where no more comes in time."""
    found = b""
    with contextlib.suppress(TimeoutError):
        while not found.endswith(b"\n") and len(found) < _LINE:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            more = connection.recv(_LINE)
            if not more:
                break
            found += more
    return found
