"""What the role ``common`` leaves on a host."""

from __future__ import annotations

from testinfra.host import Host


def test_service_user_cannot_log_in(host: Host) -> None:
    """The services' user exists, has no shell and no password."""
    user = host.user("ai102")
    assert user.exists
    assert user.shell == "/usr/sbin/nologin"
