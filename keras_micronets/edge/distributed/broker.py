"""Describe the broker and how to connect to it."""

import os
import ssl
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Broker"]


@dataclass(frozen=True)
class Broker:
    """Describe an MQTT broker, and the account and certificates to use with it.

    With a `ca_file`, a `cert_file` or `tls=True` the connection uses TLS 1.2 or later,
    and the broker's certificate must match the host's name.

    Args:
        host: Name or address. Defaults to `"localhost"`.
        port: Defaults to `None`: 8883 with TLS, 1883 without.
        username: Defaults to `None`, an anonymous connection.
        password: Not shown by `repr`. Defaults to `None`.
        ca_file: Path of the PEM file of the authority that signed the broker's
            certificate. Defaults to `None`: the authorities that the system trusts.
        cert_file: Path of the client's certificate, PEM. Defaults to `None`.
        key_file: Path of its key. Defaults to `None`: in the same file.
        tls: Whether to use TLS without any of these files. Defaults to `False`.
        keepalive: Seconds of silence after which the client pings the broker; after
            one and a half times as long the broker takes it for lost. Defaults to `30`.

    Raises:
        ValueError: If a value is invalid, or contradicts another.

    Example:

    ```python
    from keras_micronets.edge import Broker

    Broker("broker.local", username="gateway", password="...", ca_file="ca.pem")
    ```
    """

    host: str = "localhost"
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | os.PathLike | None = None
    cert_file: str | os.PathLike | None = None
    key_file: str | os.PathLike | None = None
    tls: bool = False
    keepalive: int = 30

    def __post_init__(self) -> None:
        tls = bool(self.tls or self.ca_file or self.cert_file)
        object.__setattr__(self, "tls", tls)
        port = (8883 if tls else 1883) if self.port is None else self.port
        object.__setattr__(self, "port", port)
        if not (self.host and 0 < port < 2**16 and 0 < self.keepalive < 2**16):
            raise ValueError(
                "Expected a host, a port from 1 to 65535 and a keepalive from 1 to "
                f"65535 s. Received: {self}."
            )
        if self.password is not None and not self.username:
            raise ValueError("Expected a user name with the password. Received: none.")
        if self.key_file and not self.cert_file:
            raise ValueError("Expected a certificate with the key. Received: none.")

    @classmethod
    def parse(cls, address: str, **options: Any) -> "Broker":
        """Return the broker at `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.

        Raises:
            ValueError: If the address has another form.
        """
        host, port = address, None
        if address.startswith("["):
            host, _, rest = address[1:].partition("]")
            port = rest.removeprefix(":") or None
        elif address.count(":") == 1:
            host, port = address.split(":")
        if port is not None and not (port.isascii() and port.isdigit()):
            raise ValueError(f"Expected HOST or HOST:PORT. Received: {address!r}.")
        return cls(host, None if port is None else int(port), **options)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings, or `None` without TLS.

        Raises:
            ValueError: If a file is missing or has another format.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # includes ssl.SSLError
            files = [self.ca_file, self.cert_file, self.key_file]
            names = ", ".join(str(file) for file in files if file)
            raise ValueError(
                f"Expected PEM files of certificates and of a key. Received: {names} "
                f"({error})."
            ) from None
        return context

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
