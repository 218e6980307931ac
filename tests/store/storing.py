"""What the tests of stores share: a digest of a whole store, and captures in processes that can be killed."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from vlm_probe.scenes import scene_items

POINTS = ["connector.hook_out", "language.blocks.1.hook_resid_post"]


def scenes(n, **more):
    return list(scene_items(n, split="heldout", seed=3, **more))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its lock, which is no part of it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def digest_of(folder: Path) -> str:
    whole = hashlib.sha256()
    for name, data in files(folder).items():
        whole.update(f"{name} {len(data)} ".encode() + data)
    return whole.hexdigest()


def in_a_process(work: Callable[[], object]) -> int:
    """Do something in a fork of this process; its process id. Ends with exit code 0, or 1 where it raised."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """What became of a fork: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing_at(step: int) -> Callable[[], None]:
    """Kills this process when it is called for the given time."""
    left: Iterator[int] = iter(range(step, -1, -1))

    def count() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def dying_once(marker: str, name: str):
    """Opens a model in an actor; the first of all actors that writes an item table dies there, before its commit."""
    import vlm_probe
    from vlm_probe.store.places import LocalPlace

    usual = LocalPlace.put

    def put(self, name, data):
        usual(self, name, data)
        if name.startswith("items/"):  # which the driver never writes
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    LocalPlace.put = put
    return vlm_probe.load(name, device="cpu")
