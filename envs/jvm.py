"""A Java program that runs a game: started, asked and ended from here. What the adapters of Java engines share."""

import logging
import os
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import IO, Any, Generic, TypeVar

T = TypeVar("T")
Answer = TypeVar("Answer")

_QUOTED = 2000
"""Characters of a dead engine's last words."""

# A small heap collected by one thread, and no second compiler: many engines share a machine, and none lives long enough
# for the time that the second compiler takes to pay.
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


class EngineError(RuntimeError):
    """The engine's own code raised; the engine lives on."""


class EngineDied(RuntimeError):
    """The engine's process has ended; the message says how."""


class JavaEngine:
    """One Java process and the connection to it. It ends with :meth:`close`, with this object, or with this process.

    Args:
        jar: the program.
        memory_mb: largest heap of the process, in MB.
        options: more options of Java.

    Raises:
        FileNotFoundError: there is no Java.
        OSError: Java does not start.
    """

    def __init__(self, jar: str, memory_mb: int, options: tuple[str, ...] = ()) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

        logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it logs, it also raises
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            # With a token: the engine listens on a port, and others on this machine must not be able to use it.
            port, token, process = launch_gateway(
                classpath=jar,
                java_path=java_path(),
                javaopts=[f"-Xmx{memory_mb}m", *_JAVA_OPTIONS, *options],
                cwd=str(Path(jar).parent),  # engines read data files that lie beside them
                redirect_stderr=self._errors,
                die_on_exit=True,
                enable_auth=True,
                return_proc=True,
            )
        except ValueError as error:  # it ended without naming its port
            raise OSError(f"Java does not start: {self._said() or 'it says nothing'}") from error
        self._process: Popen[bytes] = process
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
        self._end = weakref.finalize(self, _end, process, self._gateway, self._errors)

    @property
    def pid(self) -> int:
        """Id of the Java process."""
        return self._process.pid

    def make(self, java_class: str) -> Any:
        """A new Java object of the class with this full name."""
        found = self._gateway.jvm
        for part in java_class.split("."):
            found = getattr(found, part)
        return self.ask(found)

    def ask(self, method: Callable[..., T], *args: Any) -> T:
        """Calls a method of a Java object.

        Raises:
            EngineError: the method raised.
            EngineDied: the process has ended.
        """
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            return method(*args)
        except Py4JJavaError as error:
            raise EngineError(str(error.java_exception.toString())) from error
        except (Py4JError, OSError) as error:
            raise EngineDied(self._last_words()) from error

    def close(self) -> None:
        """Ends the process; more than once is fine."""
        self._end()

    def _last_words(self) -> str:
        if not self._end.alive:
            return "The Java engine was closed."
        self._process.kill()  # in case that only the connection broke
        code = self._process.wait()
        said = self._said()
        self.close()
        return f"The Java engine has ended (exit status {code}).{chr(10) + said if said else ''}"

    def _said(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - _QUOTED, 0))
        return self._errors.read().decode(errors="replace").strip()


class JavaGame(ABC, Generic[Answer]):
    """The game in an engine. Where it stands is told by what it started from and the actions played since.

    There is one per engine: the games of an engine share objects, and two at a time disturb each other.

    Args:
        engine: where it runs.
        java_class: full name of the class that is asked.
    """

    now: Answer
    """What the engine said last."""

    def __init__(self, engine: JavaEngine, java_class: str) -> None:
        self._engine = engine
        self._java = engine.make(java_class)
        self._position: tuple[int, tuple[str, ...]] | None = None

    @abstractmethod
    def _start(self, number: int, *, gold: bool) -> Answer:
        """Begin the game of this number; with ``gold``, the engine also looks for a way to its end."""

    @abstractmethod
    def _step(self, action: str) -> Answer:
        """Play an action."""

    def _changed(self) -> bool:
        """Whether the last action can have changed anything; what cannot need not be played again."""
        return True

    def start(self, number: int, *, gold: bool = False) -> Answer:
        """Begin anew."""
        self._position = None  # in case that the engine raises
        self.now = self._start(number, gold=gold)
        self._position = number, ()
        return self.now

    def step(self, action: str) -> Answer:
        """Play an action."""
        assert self._position is not None, "start() comes first"
        (number, played), self._position = self._position, None
        self.now = self._step(action)
        self._position = number, (*played, action) if self._changed() else played
        return self.now

    def go_to(self, number: int, actions: tuple[str, ...]) -> Answer:
        """Be where these actions lead from the start; plays them if the game stands elsewhere."""
        if self._position != (number, actions):
            self.start(number)
            for action in actions:
                self.step(action)
        return self.now


def _end(process: Popen[bytes], gateway: Any, errors: IO[bytes]) -> None:
    process.kill()  # it holds nothing that must be written down
    process.wait()
    # Python's references to Java objects go later, one by one. None must then ask at the port: it may be another
    # engine's by then.
    gateway._gateway_client.is_connected = False
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    with suppress(Exception):
        gateway.close()
    errors.close()


def java_path() -> str:
    """Where ``java`` is: in ``JAVA_HOME``, else on the ``PATH``.

    Raises:
        FileNotFoundError: nowhere; the message says how to install it.
    """
    home = os.environ.get("JAVA_HOME")
    found = (shutil.which("java", path=str(Path(home, "bin"))) if home else None) or shutil.which("java")
    if found is None:
        raise FileNotFoundError(
            "it needs Java 8 or newer, and there is no `java` on the PATH or in JAVA_HOME. On Debian and Ubuntu: "
            "apt-get install default-jre-headless. Elsewhere: adoptium.net."
        )
    return found
