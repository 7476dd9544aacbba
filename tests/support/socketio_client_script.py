"""Connect with python-socketio's synchronous client, save an update, and print the results as lines of JSON.

    python socketio_client_script.py URL TRANSPORT[,TRANSPORT] [CERTIFICATE]

Every host name resolves to 127.0.0.1. It runs on python-socketio 5.0 and newer, without the other modules of the tests.
"""

import json
import socket
import sys
import threading

import requests
import socketio

UPDATE = {"onchain": {"rlb": 1, "usdt": 2}, "onsite": {"rlb": 3, "usd": 4}}
resolve = socket.getaddrinfo


def report(*words):
    print(json.dumps(words), flush=True)


def main(url, transports, certificate=None):
    socket.getaddrinfo = lambda host, *args, **options: resolve("127.0.0.1", *args, **options)
    session = requests.Session()
    session.trust_env = False
    session.verify = certificate or True
    client = socketio.Client(reconnection=False, http_session=session)
    connected = threading.Event()

    @client.on("connected")
    def on_connected(payload):
        report("connected", payload)
        connected.set()

    try:
        client.connect(url, transports=transports.split(","), socketio_path="/api/socket.io")
    except socketio.exceptions.ConnectionError as error:
        report("refused", str(error))
        return
    try:
        assert connected.wait(15), "the event `connected` did not come"  # `connect` of 5.0 returns before
        report("saved", client.call("balance:update", UPDATE, timeout=15))
        report("transport", client.transport())
    finally:
        client.disconnect()


main(*sys.argv[1:])
