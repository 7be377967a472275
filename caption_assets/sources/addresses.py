"""Which addresses a list of URLs may lead to: those of the public internet, and hosts the pipeline file allows.

A list comes from anywhere, and this machine sees more than its writer: its own services, its network's, and the cloud's
metadata, which gives away credentials. So the addresses that a name resolves to are checked where they are used: the
resolver that checks is the one that the connection asks.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out to the public; what is beside it is local, translated or not in use."""
_PUBLIC_BUT_NOT_FOR_LISTS = tuple(
    ipaddress.ip_network(each)
    for each in (
        "168.63.129.16/32",  # metadata of a cloud
        "192.0.0.0/24",  # protocols' own, and metadata of another cloud
        "192.88.99.0/24",  # relays into IPv6
        "3fff::/20",  # examples in documents
    )
)


class BlockedAddressError(Exception):
    """A URL leads to an address that a list may not name."""


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also where it is wrapped into an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64 or parsed in _COMPATIBLE:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed.teredo:
            return False
        if inner := parsed.ipv4_mapped or parsed.sixtofour:
            return is_public(str(inner))
        if parsed not in _UNICAST:
            return False
    return (
        parsed.is_global and not parsed.is_multicast and all(parsed not in each for each in _PUBLIC_BUT_NOT_FOR_LISTS)
    )


def check_host(url: URL, allowed: Collection[str]) -> None:
    """Check a URL whose host is an address, for which no resolver is asked. Raises BlockedAddressError."""
    host = url.host or ""
    try:
        address = str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        try:
            address = socket.inet_ntoa(socket.inet_aton(host))  # 2130706433, 0177.1 and 0x7f.1 are addresses, too
        except (OSError, UnicodeError):
            return  # a name: the resolver's business
    if host not in allowed and not is_public(address):
        raise BlockedAddressError(f"{host} is not an address of the public internet; allow_hosts can allow it")


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead anywhere but to the public internet.

    Args:
        allowed: names that may lead anywhere.
        inner: what resolves; default: the system's.
    """

    def __init__(self, allowed: Collection[str], inner: AbstractResolver | None = None) -> None:
        self._allowed = allowed
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises BlockedAddressError, OSError."""
        found = await self._inner.resolve(host, port, family)
        if host not in self._allowed:
            for each in found:  # one bad address is enough: the next connection might take it
                if not is_public(each["host"]):
                    raise BlockedAddressError(f"{host} leads to {each['host']}, which is not public; see allow_hosts")
        return found

    async def close(self) -> None:
        """Close what resolves."""
        await self._inner.close()
