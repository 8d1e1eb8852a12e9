"""The emulator as a cloud of its own process, which Origin's unmodified client takes for Origin's.

    serve: HTTP  ->  cloud: who may do what  ->  store: the queue on disk  <-  worker: runs it on the emulated chip

`wire` alone knows the words of the protocol; docs/origin.md lists them.
"""

from qpeft.service.keys import KeyRing, add_user
from qpeft.service.server import run_service
from qpeft.service.settings import ServiceSettings

__all__ = ["KeyRing", "ServiceSettings", "add_user", "run_service"]
