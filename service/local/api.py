"""Serve the API on a listening socket opened by the parent process: `python -m service.local.api FD`."""

import socket
import sys

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.core.settings import Settings
from service.middleware.request import MAX_HEADER_BYTES


def server_config(app: FastAPI) -> uvicorn.Config:
    """Return the configuration of the HTTP server for `app`, which logs its requests itself.

    httptools would send chunks to HTTP/1.0 clients. Larger headers than the application allows reach it, so that it can
    explain its limit. The application reads the headers of proxies, see `Settings.trusted_proxies`.
    """
    return uvicorn.Config(
        app,
        http="h11",
        h11_max_incomplete_event_size=2 * MAX_HEADER_BYTES,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        log_config=None,
    )


def main() -> None:
    """Serve the API until SIGTERM, then give open streams two seconds to end."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    uvicorn.Server(server_config(create_app(Settings()))).run(sockets=[listening])


if __name__ == "__main__":
    main()
