"""Work on pictures that goes on behind the one who makes them, such as encoding a film while a GPU makes the next part.

One thread takes pieces in the order they were handed in; a few may wait, so that neither side stalls over a short
delay, and no more, so that memory does not grow where the second is the slower one.
"""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Self

from sana_video.video.io import Pixels

WAITING = 8  # pieces; of one latent each, they are two seconds of video


class Behind:
    """A context manager whose `add(piece)` hands a piece to `take(piece)` on a thread of its own.

    When the block ends well, every piece was taken; after an exception those that wait are dropped. What `take` raises
    is raised by the next `add`, or at the end of the block, once; no piece is taken after it.
    """

    def __init__(self, take: Callable[[Pixels], None]) -> None:
        self._take = take
        self._waiting: Queue[Pixels | None] = Queue(WAITING)
        self._failed: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def add(self, piece: Pixels) -> None:
        """Wait for room, then return; the piece must not be changed afterwards."""
        self._raise()
        self._waiting.put(piece)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._dropping = failed is not None
        self._waiting.put(None)
        self._thread.join()
        if failed is None:
            self._raise()

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            if self._dropping or self._failed is not None:
                continue  # emptied, so that nobody waits for room that never comes
            try:
                self._take(piece)
            except BaseException as error:  # told on the thread that asked
                self._failed = error

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed
