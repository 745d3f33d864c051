"""`python -m service.local.api FD`: the API on a listening socket that was opened by the parent."""

import socket
import sys

import uvicorn

from service.app import create_app
from service.core.settings import Settings


def main() -> None:
    """Serve until SIGTERM. Open streams are given two seconds."""
    settings = Settings()
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        create_app(settings),
        timeout_graceful_shutdown=2,
        log_config=None,  # the application has set it up by now, for the server's lines too
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
