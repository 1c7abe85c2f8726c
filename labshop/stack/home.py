"""The lab's folder: who runs here, and where its nodes are.

The problem: a state file outlives a supervisor that was killed, and two supervisors must not
share the nodes' data. The idea: the supervisor holds a lock of the operating system on
``home/lock`` for its whole life, and the leash holds it until the last server has gone; a state
file counts only while that lock is held. It is replaced by renaming, so a reader sees all of it
or nothing.

It does not promise anything on a network file system whose locks are not shared.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError

_POLL_S = 0.02
# A reader holds the lock for an instant, and a killed supervisor's servers for a few seconds.
_PATIENCE_WITH_THE_LIVING_S = 0.3
_PATIENCE_WITH_THE_DEAD_S = 6.0


@dataclass(frozen=True)
class NodeState:
    """One node as the state file describes it."""

    name: str
    role: str
    url: str
    pid: int


@dataclass(frozen=True)
class State:
    """What runs in a home folder; `started_at` is ISO 8601, UTC."""

    supervisor_pid: int
    started_at: str
    nodes: tuple[NodeState, ...] = ()
    api_url: str | None = None

    def lock_urls(self) -> tuple[str, ...]:
        """The addresses of the independent masters of a quorum."""
        return tuple(node.url for node in self.nodes if node.role == "lock")

    def url_of(self, name: str) -> str | None:
        """Return a node's address; None while it has not started."""
        return next((node.url for node in self.nodes if node.name == name), None)


def read_state(home: Path) -> State | None:
    """Return what runs in a home folder; None when nothing does, whatever its files say.

    Raises:
        SetupError: something runs there, but the state file is damaged or not ours to read.
    """
    if not is_held(home):
        return None
    return _load(home)


def is_held(home: Path) -> bool:
    """Tell whether a supervisor, or a server that it left behind, still has this folder.

    Raises:
        SetupError: the folder's lock is not ours to read.
    """
    try:
        descriptor = os.open(home / "lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(home, error) from None
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def make_home(home: Path) -> Path:
    """Make the folder if it is missing, and return it as an absolute path.

    Raises:
        SetupError: it cannot be made, or is not a folder that we may write to.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "lock").touch()
    except OSError as error:
        raise _unusable(home, error) from None
    return home.absolute()


class HomeLock:
    """Sole use of a home folder, from construction until `release`.

    Raises:
        SetupError: somebody else runs there, or the folder cannot be written.
    """

    def __init__(self, home: Path) -> None:
        self._home = make_home(home)
        self.descriptor = os.open(self._home / "lock", os.O_RDWR)
        try:
            self._wait_for_lock()
            (self._home / "state.json").unlink(missing_ok=True)
        except OSError as error:
            os.close(self.descriptor)
            raise _unusable(home, error) from None
        except BaseException:
            os.close(self.descriptor)
            raise

    def write_state(self, state: State) -> None:
        """Replace the state file, all at once."""
        draft = self._home / "state.json.draft"
        draft.write_text(json.dumps(asdict(state), indent=2) + "\n")
        draft.replace(self._home / "state.json")

    def release(self) -> None:
        """Remove the state file and let the next one in."""
        (self._home / "state.json").unlink(missing_ok=True)
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _wait_for_lock(self) -> None:
        began_s = time.monotonic()
        while not _try_lock(self.descriptor, fcntl.LOCK_EX):
            state = _load(self._home)
            lives = state is not None and _exists(state.supervisor_pid)
            patience_s = _PATIENCE_WITH_THE_LIVING_S if lives else _PATIENCE_WITH_THE_DEAD_S
            if time.monotonic() - began_s > patience_s:
                who = f"process {state.supervisor_pid}" if state else "its process is starting"
                raise SetupError(
                    f"The lab is already running here ({who}). "
                    "See `labshop status`, or stop it with `labshop down`."
                )
            time.sleep(_POLL_S)


def _load(home: Path) -> State | None:
    path = home / "state.json"
    try:
        fields = json.loads(path.read_text())
        nodes = tuple(NodeState(**node) for node in fields.pop("nodes"))
        return State(nodes=nodes, **fields)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(home, error) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SetupError(f"{path} is damaged; end the lab's processes and delete it.") from None


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It exists, and belongs to somebody else.
    return True


def _unusable(home: Path, error: OSError) -> SetupError:
    return SetupError(
        f"The folder {home} cannot be used: {error.strerror}. Name another one by LABSHOP_HOME."
    )
