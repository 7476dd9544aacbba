"""The certificate of the server: an SSL context, made again when the files change.

A context that replaces another one is used for new connections; those that exist keep theirs.

Threads: `context` may be read by any; one thread, between `start` and `stop`, checks the files.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import NoReturn

log = logging.getLogger("balance.web")

CHECK_S = 5.0  # between two checks of the files


class CertificateError(Exception):
    """A certificate and a key cannot be used; the text is one line."""


class Certificate:
    """The certificate and the private key in two files."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Read the files. Raises CertificateError."""
        self._cert = cert
        self._key = key
        self._is_stopping = Event()
        self._thread = Thread(target=self._follow_files, name="balance-certificate", daemon=True)
        self._read = self._stamps()
        self.context = make_context(cert, key)
        """For new connections."""

    def start(self) -> None:
        """Use changed files from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow_files(self) -> None:
        """Read the files when they have changed and are the same in two checks: a program may still write them."""
        seen = self._read
        while not self._is_stopping.wait(CHECK_S):
            previous, seen = seen, self._stamps()
            if seen != self._read and seen == previous:
                self._read = seen
                self._replace_context()

    def _replace_context(self) -> None:
        try:
            self.context = make_context(self._cert, self._key)
        except CertificateError as error:
            log.warning("the changed certificate is not used: %s", error)
        else:
            log.info("the certificate was read again: %s", self._cert)

    def _stamps(self) -> list[tuple[int, ...]]:
        """Return what changes when one of the files is written or replaced."""
        found: list[tuple[int, ...]] = []
        for file in (self._cert, self._key):
            with suppress(OSError):  # a file that is gone has none
                status = file.stat()
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return found


def make_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the context of a server for TLS 1.2 and 1.3. Raises CertificateError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a connection has one handshake, which `accepts_per_s_max` counts
    context.set_alpn_protocols(["http/1.1"])
    try:
        for file in (cert, key):
            file.open("rb").close()  # OpenSSL does not name the file that it cannot read
        context.load_cert_chain(cert, key, _refuse_password)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise CertificateError(f"--tls-key: {key} is not the key of the certificate in {cert}") from error
        raise CertificateError(
            f"--tls-cert, --tls-key: {cert} and {key} are not a certificate and its key in PEM"
        ) from error
    except OSError as error:
        flag = "--tls-key" if error.filename == str(key) else "--tls-cert"
        raise CertificateError(f"{flag}: cannot read {error.filename}: {error.strerror}") from error
    return context


def _refuse_password() -> NoReturn:
    raise CertificateError("--tls-key: the key is encrypted; the service cannot ask for its password")
