from datetime import UTC, datetime

import pytest

from medfinder.curate.sources.remote import (
    Patience,
    Refused,
    Stalled,
    check_address,
    check_status,
    patiently,
    retry_after,
    shown,
)
from medfinder.errors import ConfigError

NOW = datetime(2020, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Wed, 01 Jan 2020 12:00:30 GMT", 30.0),
        ("Wed, 01 Jan 2020 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("9" * 40, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_waits_double_heed_the_server_and_are_bounded() -> None:
    patience = Patience(wait_s=1, longest_wait_s=10)
    assert [patience.wait(n, None) for n in (1, 2, 3, 4, 5, 10**6)] == [1, 2, 4, 8, 10, 10]
    assert patience.wait(1, 7) == 7
    assert patience.wait(1, 3600) == 10


def test_a_call_is_repeated_while_it_stalls_and_no_more_often_than_asked() -> None:
    patience, n = Patience(tries=3, wait_s=0), 0

    def stall_twice() -> str:
        nonlocal n
        n += 1
        if n < 3:
            raise Stalled("no")
        return "yes"

    assert patiently(stall_twice, patience) == "yes"
    n = -9
    with pytest.raises(Stalled):
        patiently(stall_twice, patience)
    assert n == -6


def test_what_is_refused_is_not_asked_again() -> None:
    asked = []

    def refuse() -> None:
        asked.append(1)
        raise Refused("no")

    with pytest.raises(Refused):
        patiently(refuse, Patience(wait_s=0))
    assert asked == [1]


def test_codes_are_sorted_into_passing_and_final() -> None:
    check_status(200, {})
    check_status(204, {})
    for status in (408, 429, 500, 502, 503, 504):
        with pytest.raises(Stalled) as stalled:
            check_status(status, {"Retry-After": "3"})
        assert stalled.value.after_s == 3
    for status in (301, 400, 401, 403, 404, 406, 501):
        with pytest.raises(Refused) as refused:
            check_status(status, {})
        assert refused.value.status == status


def test_of_an_address_only_the_host_is_shown() -> None:
    assert shown("https://host:8443/fhir/DiagnosticReport?patient=canary") == "https://host:8443"
    assert shown("http://[::1]:80/x") == "http://[::1]:80"
    assert check_address("http://host/dicom-web/", "PACS", "X") == "http://host/dicom-web"


@pytest.mark.parametrize("values", [{"tries": 0}, {"wait_s": -1}, {"timeout_s": 0}])
def test_a_patience_out_of_range_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected tries >= 1, waits >= 0 and a timeout > 0"):
        Patience(**values)  # type: ignore[arg-type]
