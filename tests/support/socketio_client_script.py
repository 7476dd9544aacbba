"""Connect with python-socketio's synchronous client, save an update, and print the results as lines of JSON.

    python socketio_client_script.py URL TRANSPORT[,TRANSPORT] [CERTIFICATE]

Every host name resolves to 127.0.0.1. It runs on python-socketio 5.0 and newer, without the other modules of the tests.
If something fails, stderr has what the client and its threads did.
"""

import faulthandler
import io
import json
import logging
import select
import socket
import ssl
import sys
import threading
import traceback

import requests
import socketio

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
STACKS_AFTER_S = 25  # less than the time after which the tests kill this process
resolve = socket.getaddrinfo


class DuplexSocket(ssl.SSLSocket):
    """A TLS socket that one thread may read while another writes, as python-engineio's client does.

    An object of OpenSSL is not for two threads at once, and Python has no lock for it (docs/library-pitfalls.md, T31).
    """

    lock = threading.Lock()  # of all sockets: it is held for one call that does not wait

    def recv(self, *arguments):
        while True:
            with self.lock:
                timeout = self.gettimeout()
                self.settimeout(0)  # a wait for the next byte would hold the lock
                try:
                    return super().recv(*arguments)
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self.settimeout(timeout)
            if not select.select([self], [], [], timeout)[0]:
                raise TimeoutError("timed out")

    def send(self, *arguments):
        with self.lock:
            return super().send(*arguments)


def report(*words):
    print(json.dumps(words), flush=True)


def make_client(session, log):
    """Return a client that writes all that it does into `log`."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(threadName)s: %(message)s"))
    logger = logging.Logger("client", logging.INFO)
    logger.addHandler(handler)
    return socketio.Client(reconnection=False, http_session=session, logger=logger, engineio_logger=logger)


def describe(client, log):
    """Return what is known of a client whose test fails: the error, its state, and its log."""
    threads = ", ".join(thread.name for thread in threading.enumerate())
    state = f"engine: {client.eio.state}, {client.eio.current_transport}; namespaces: {client.namespaces}"
    return f"{traceback.format_exc()}{state}; threads: {threads}\n{log.getvalue()}"


def save(client, log, url, transports):
    """Connect a client, save an update, and report each step."""
    connected = threading.Event()

    @client.on("connected")
    def on_connected(payload):
        report("connected", payload)
        connected.set()

    try:
        client.connect(url, transports=transports.split(","), socketio_path="/api/socket.io")
    except socketio.exceptions.ConnectionError:
        report("refused", describe(client, log))
        return
    assert connected.wait(15), "the event `connected` did not come"  # `connect` of 5.0 returns before
    report("saved", client.call("balance:update", UPDATE, timeout=15))
    report("transport", client.transport())


def main(url, transports, certificate=None):
    faulthandler.dump_traceback_later(STACKS_AFTER_S)
    socket.getaddrinfo = lambda host, *args, **options: resolve("127.0.0.1", *args, **options)
    ssl.SSLContext.sslsocket_class = DuplexSocket
    session = requests.Session()
    session.trust_env = False
    session.verify = certificate or True
    log = io.StringIO()
    client = make_client(session, log)
    try:
        save(client, log, url, transports)
    except Exception:
        sys.exit(describe(client, log))
    finally:
        client.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
