"""`python -m service.local.api FD`: the API on a listening socket that the parent process opened."""

import socket
import sys

import uvicorn

from service.app import create_app
from service.core.settings import Settings


def main() -> None:
    """Serve until SIGTERM. Open streams get two seconds to end."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    # The application configures logging, for the server's lines too.
    config = uvicorn.Config(create_app(Settings()), timeout_graceful_shutdown=2, log_config=None)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
