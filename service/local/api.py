"""Serve the API on a listening socket opened by the parent process: `python -m service.local.api FD`."""

import socket
import sys

import uvicorn

from service.app import create_app
from service.core.settings import Settings


def main() -> None:
    """Serve the API until SIGTERM, then give open streams two seconds to end."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    # The application configures logging, including that of the server.
    config = uvicorn.Config(create_app(Settings()), timeout_graceful_shutdown=2, log_config=None)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
