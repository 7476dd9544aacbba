"""nginx, HAProxy and Caddy in front of a service, on free loopback ports, with all their files in one folder."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.failures import noted
from tests.support.repository import ROOT

START_S_MAX = 10.0
DEPLOY = ROOT / "deploy"
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {content}
}}
"""
SERVER = """
    {outside}
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        {location}
    }}
"""
HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend front
    bind 127.0.0.1:{http}
    bind 127.0.0.1:{https} ssl crt {certificate}
    default_backend balance
backend balance
    option httpchk GET /api/balance/snapshot?limit=1
    server one 127.0.0.1:{upstream} check inter 2s fall 5
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    http: int
    """The port for plain HTTP."""
    https: int
    """The port for TLS."""
    certificate: Path


def from_document() -> tuple[str, str]:
    """Return the nginx configuration of docs/settings.md: the location, and the directive outside of the server."""
    text = (ROOT / "docs" / "settings.md").read_text()
    location, outside = re.search(r"```nginx\n(.*?)```", text, re.DOTALL), re.search(r"`(map .*?)`", text)
    assert location
    assert outside
    return location[1], outside[1]


def make_certificate(folder: Path) -> Path:
    """Write a certificate for some names, with its key, in one file."""
    file = folder / "certificate.pem"
    names = "subjectAltName=DNS:localhost,DNS:balance,DNS:balance.internal,DNS:snapshots.example,IP:127.0.0.1"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / "key.pem")
    command = (program("openssl"), "req", "-x509", *key, "-out", file, "-subj", "/CN=balance", "-addext", names)
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    file.write_bytes(file.read_bytes() + (folder / "key.pem").read_bytes())
    return file


@asynccontextmanager
async def nginx(folder: Path, upstream: int, *, location: str | None = None) -> AsyncIterator[Proxy]:
    """Run nginx with the configuration of docs/settings.md, or with another location."""
    documented, outside = from_document()
    location = (location or documented).replace("127.0.0.1:3000", f"127.0.0.1:{upstream}")
    proxy = Proxy(free_port(), free_port(), make_certificate(folder))
    async with _running_nginx(folder, proxy, SERVER.format(outside=outside, location=location, **vars(proxy))):
        yield proxy
    assert (folder / "error.log").read_text() == ""


@asynccontextmanager
async def nginx_for_processes(
    folder: Path, upstreams: Sequence[int], *, cookie: bool = False, prefix: str = ""
) -> AsyncIterator[Proxy]:
    """Run nginx with deploy/nginx.conf, on another port and with another certificate.

    With `cookie` it has the changes by which nginx chooses the process of a Socket.IO session by a cookie. With a
    prefix, each of its locations has it.
    """
    proxy = Proxy(0, free_port(), make_certificate(folder))
    content = (DEPLOY / "nginx.conf").read_text()
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{proxy.https} ssl",
        "/etc/nginx/balance.pem": str(proxy.certificate),
        "/etc/nginx/balance.key": str(proxy.certificate),
        "location /api/": f"location {prefix}/api/",
        **_ports(upstreams),
    }
    if cookie:
        text = (ROOT / "docs" / "deployment.md").read_text()
        by_cookie, node_map, set_cookie = re.findall(r"```nginx cookie\n(.*?)```", text, re.DOTALL)
        changes |= {
            "ip_hash;": by_cookie,
            "map $http_upgrade": f"{node_map}map $http_upgrade",
            "/api/socket.io {": f"/api/socket.io {{\n{set_cookie}",
        }
    async with _running_nginx(folder, proxy, replace_all(content, changes)):
        yield proxy


@asynccontextmanager
async def caddy_for_processes(folder: Path, upstreams: Sequence[int], *, prefix: str = "") -> AsyncIterator[Proxy]:
    """Run Caddy with deploy/Caddyfile, on another port, with another certificate and with more frequent checks."""
    proxy = Proxy(free_port(), free_port(), make_certificate(folder))
    changes = {
        "balance.example.com {": f"https://localhost:{proxy.https} {{",
        "/etc/caddy/balance.pem /etc/caddy/balance.key": f"{proxy.certificate} {proxy.certificate}",
        " /api/": f" {prefix}/api/",
        "health_interval 2s": "health_interval 200ms",
        **_ports(upstreams),
    }
    options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}\n}}\n"
    file = folder / "Caddyfile"
    file.write_text(options + replace_all((DEPLOY / "Caddyfile").read_text(), changes), "utf-8")
    async with _running(
        proxy, "env", f"HOME={folder}", program("caddy"), "run", "--adapter", "caddyfile", "--config", file
    ):
        yield proxy


@asynccontextmanager
async def haproxy_for_processes(folder: Path, upstreams: Sequence[int], *, prefix: str = "") -> AsyncIterator[Proxy]:
    """Run HAProxy with deploy/haproxy.cfg, on another port, with another certificate and with more frequent checks."""
    proxy = Proxy(0, free_port(), make_certificate(folder))
    changes = {
        "bind :443": f"bind 127.0.0.1:{proxy.https}",
        "/etc/haproxy/balance.pem": str(proxy.certificate),
        "maxconn 50000": "maxconn 256",
        "check inter 2s": "check inter 200ms",
        " /api/": f" {prefix}/api/",
        **_ports(upstreams),
    }
    file = folder / "haproxy.cfg"
    file.write_text(replace_all((DEPLOY / "haproxy.cfg").read_text(), changes), "utf-8")
    async with _running(proxy, program("haproxy"), "-db", "-q", "-f", file):
        yield proxy


def _ports(upstreams: Sequence[int]) -> dict[str, str]:
    return {f"127.0.0.1:{3000 + n}": f"127.0.0.1:{port}" for n, port in enumerate(upstreams)}


def replace_all(text: str, changes: dict[str, str]) -> str:
    """Replace each text, which must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def _running_nginx(folder: Path, proxy: Proxy, content: str) -> AsyncIterator[None]:
    """Run nginx with this content of its block `http`."""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, content=content), "utf-8")
    logs = [folder / "error.log", folder / "access.log"]
    with noted("the logs of nginx", lambda: [file.read_text() for file in logs if file.exists()]):
        async with _running(proxy, program("nginx"), "-p", folder, "-e", logs[0], "-c", folder / "nginx.conf"):
            yield


@asynccontextmanager
async def haproxy(folder: Path, upstream: int) -> AsyncIterator[Proxy]:
    """Run HAProxy with its own health check of the service."""
    proxy = Proxy(free_port(), free_port(), make_certificate(folder))
    (folder / "haproxy.cfg").write_text(HAPROXY.format(upstream=upstream, **vars(proxy)), "utf-8")
    async with _running(proxy, program("haproxy"), "-db", "-q", "-f", folder / "haproxy.cfg"):
        yield proxy


def program(name: str) -> str:
    """Find a program, or skip the test that needs it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def _running(proxy: Proxy, *command: str | Path) -> AsyncIterator[None]:
    """Run a proxy until the end of the block, which begins once it accepts connections."""
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(START_S_MAX):
            while not await _accepts(proxy.https):
                assert process.returncode is None, (await process.stderr.read()).decode()  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
