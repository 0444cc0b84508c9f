"""The address of `/status` and `/metrics`."""

from __future__ import annotations

import pytest

from llm360.errors import InputError
from llm360_trainer.driver.service import check_host


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_an_address_of_this_machine_can_be_listened_on(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize("host", ["300.1.1.1", "198.51.100.7", "a..b", "::1", "no-such-host.invalid"])
def test_another_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=f"cannot listen on --host {host}: .*; give an IPv4 address or name") as caught:
        check_host(host)
    assert "Errno" not in caught.value.message
