"""A chat endpoint that stumbles in every way, on loopback."""

import json
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.report.translation_server import Server, serving

from medfinder.errors import ConfigError, InputError
from medfinder.report.chat import Chat, Limiter
from medfinder.report.translate import Failed, TranslateConfig, translate_all

Reports = list[dict[str, Any]]


def right(text: str, n: int) -> str:
    """Translate "nodulo de 5 mm ."."""
    del n
    return f"Nodule of {text.split()[2]} mm."


def texts(n: int) -> list[str]:
    return [f"nodulo de {k} mm ." for k in range(1, n + 1)]


def chat(server: Server, **options: Any) -> Chat:
    return Chat(server.url, "m", **{"backoff_s": 0.001, "timeout_s": 5.0, **options})


def once(status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Any:
    """Answer the first request with a fault."""

    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        if len(server.requests) > 1:
            return False
        server.send(handler, status, body, headers)
        return True

    return fault


def always(status: int, body: bytes = b"{}") -> Any:
    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        server.send(handler, status, body)
        return True

    return fault


def says(content: str, **choice: Any) -> Any:
    """Answer the first request with a chat reply of this content."""

    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        if len(server.requests) > 1:
            return False
        server.reply(handler, content, **choice)
        return True

    return fault


def test_reports_are_translated_several_a_request() -> None:
    with serving(right) as server:
        made = dict(chat(server, reports_a_request=4).translate(texts(10)))
    assert made == {k: f"Nodule of {k + 1} mm." for k in range(10)}
    assert len(server.requests) == 3


def test_requests_go_out_together_and_no_more_than_allowed() -> None:
    def slow(text: str, n: int) -> str:
        time.sleep(0.05)
        return right(text, n)

    with serving(slow) as server:
        list(chat(server, reports_a_request=1, concurrency=3).translate(texts(9)))
    assert server.most_under_way == 3


def test_the_request_is_openais_with_temperature_zero() -> None:
    with serving(right) as server:
        list(chat(server).translate(texts(1)))
    (body,) = server.requests
    assert body["model"] == "m"
    assert body["temperature"] == 0
    assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_only_the_terms_that_occur_are_in_the_prompt() -> None:
    with serving(lambda text, n: "x") as server:
        list(chat(server).translate(["derrame pleural derecho ."]))
    prompt = server.requests[0]["messages"][0]["content"]
    assert "derrame pleural = pleural effusion" in prompt
    assert "neumotorax" not in prompt


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFINDER_CHAT_KEY", "s3cret")
    with serving(right, always(401)) as server:
        made_by = chat(server)
        with pytest.raises(InputError, match="refuses to work - HTTP 401") as caught:
            list(made_by.translate(texts(3)))
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value) + made_by.name
    assert caught.value.rule == "translator"


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_an_endpoint_that_refuses_everybody_ends_the_run(status: int, tmp_path: Path) -> None:
    with serving(right, always(status)) as server:
        items = [(t, t) for t in texts(40)]
        with pytest.raises(InputError, match=f"HTTP {status}"):
            list(translate_all(items, chat(server), tmp_path / "c"))
    assert len(server.requests) < 30


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_endpoint_that_stumbles_is_asked_again(status: int) -> None:
    with serving(right, once(status)) as server:
        made = dict(chat(server).translate(texts(1)))
    assert made == {0: "Nodule of 1 mm."}
    assert len(server.requests) == 2


def test_a_reply_that_does_not_come_is_asked_for_again() -> None:
    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        if len(server.requests) > 1:
            return False
        time.sleep(0.6)
        return False

    with serving(right, fault) as server:
        made = dict(chat(server, timeout_s=0.3).translate(texts(1)))
    assert made == {0: "Nodule of 1 mm."}


def test_a_connection_that_breaks_is_made_again() -> None:
    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        if len(server.requests) > 1:
            return False
        handler.close_connection = True
        handler.connection.close()
        return True

    with serving(right, fault) as server:
        made = dict(chat(server).translate(texts(1)))
    assert made == {0: "Nodule of 1 mm."}


def test_nobody_asks_while_the_endpoint_wants_to_be_left_alone() -> None:
    slept: list[float] = []
    with serving(right, once(429, headers={"Retry-After": "7"})) as server:
        list(chat(server, sleep=slept.append).translate(texts(1)))
    assert 6 < max(slept) <= 7


def test_pauses_between_attempts_double() -> None:
    slept: list[float] = []
    with serving(right, always(500)) as server:
        made = dict(chat(server, retries=4, backoff_s=8, sleep=slept.append).translate(texts(1)))
    assert made == {0: Failed("HTTP 500, 5 times")}
    assert len(slept) == 4
    for pause, expected in zip(slept, (8, 16, 32, 60), strict=True):
        assert 0.75 * expected <= pause <= 1.25 * expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><body>Bad gateway</body></html>", "the endpoint answered with a web page"),
        (b'{"choices": [{"message": {"conte', "no whole JSON of a chat reply"),
        (b'{"error": "none"}', "no whole JSON of a chat reply"),
        (b"", "no whole JSON of a chat reply"),
        (b"[]", "no whole JSON of a chat reply"),
    ],
)
def test_a_body_that_is_no_chat_reply_is_named(body: bytes, reason: str) -> None:
    with serving(right, always(200, body)) as server:
        made = dict(chat(server, retries=1).translate(texts(1)))
    assert isinstance(made[0], Failed)
    assert reason in made[0].reason
    assert made[0].reason.endswith(", 2 times")


@pytest.mark.parametrize(
    "content",
    [
        '{"translations": [{"id": 1, "te',
        '{"translations": [{"id": 9, "text": "x"}]}',
        '{"translations": [{"id": 1, "text": "x"}, {"id": 1, "text": "y"}]}',
        '{"translations": "none"}',
        '{"translations": [1, 2]}',
        '{"result": []}',
        "I'm sorry, but I can't help with that.",
        "",
    ],
)
def test_a_reply_of_the_wrong_shape_is_asked_for_again_alone(content: str) -> None:
    with serving(right, says(content)) as server:
        made = dict(chat(server, concurrency=1).translate(texts(3)))
    assert made == {k: f"Nodule of {k + 1} mm." for k in range(3)}
    assert len(server.requests) == 4


def test_of_a_reply_that_lacks_some_only_those_are_asked_for_again() -> None:
    with serving(right, says('{"translations": [{"id": 2, "text": "Nodule of 2 mm."}]}')) as server:
        made = dict(chat(server).translate(texts(3)))
    assert made == {k: f"Nodule of {k + 1} mm." for k in range(3)}
    assert sorted(server.asked) == ["nodulo de 1 mm .", "nodulo de 3 mm ."]


def test_a_reply_that_was_cut_off_is_asked_for_again() -> None:
    cut = '{"translations": [{"id": 1, "text": "Nodule of"}]}'
    with serving(right, says(cut, finish_reason="length")) as server:
        made = dict(chat(server).translate(texts(1)))
    assert made == {0: "Nodule of 1 mm."}


def test_json_in_a_code_fence_is_read() -> None:
    fenced = '```json\n{"translations": [{"id": "1", "text": "Nodule of 1 mm."}]}\n```'
    with serving(right, says(fenced)) as server:
        made = dict(chat(server).translate(texts(1)))
    assert made == {0: "Nodule of 1 mm."}
    assert len(server.requests) == 1


def test_a_report_the_endpoint_will_not_take_does_not_spoil_the_others() -> None:
    def fault(server: Server, handler: BaseHTTPRequestHandler, reports: Reports) -> bool:
        if any(" 2 mm" in report["text"] for report in reports):
            server.send(handler, 400, b"{}")
            return True
        return False

    with serving(right, fault) as server:
        made = dict(chat(server, retries=1).translate(texts(3)))
    assert made[0] == "Nodule of 1 mm."
    assert made[1] == Failed("HTTP 400, 2 times")
    assert made[2] == "Nodule of 3 mm."


@pytest.mark.parametrize(
    "wrong",
    [
        "I'm sorry, but I can't help with that.",
        "Nodule of 6 mm.",
        "No nodule of 5 mm.",
        "Left nodule of 5 mm.",
        "Nodulo of 5 mm.",
        "",
    ],
)
def test_a_translation_that_fails_a_check_is_asked_for_with_what_was_wrong(
    wrong: str, tmp_path: Path
) -> None:
    with serving(lambda text, n: wrong if n == 1 else right(text, n)) as server:
        items = [("a", "nodulo de 5 mm .")]
        (made,) = translate_all(items, chat(server, retries=1), tmp_path / "c")
    assert made.text == "Nodule of 5 mm."
    if wrong:
        said = json.loads(server.requests[-1]["messages"][1]["content"])["reports"][0]
        assert said["your_last_translation_was_wrong"]


def test_an_endpoint_that_never_gets_it_right_fills_the_queue(tmp_path: Path) -> None:
    with serving(lambda text, n: "Nodule of 99 mm.") as server:
        config = TranslateConfig(attempts=2)
        made = list(
            translate_all([(t, t) for t in texts(6)], chat(server), tmp_path / "c", config=config)
        )
    assert all(m.text is None and m.problems[0].rule == "translation-number" for m in made)
    assert len(server.asked) == 12


def test_a_limit_of_requests_spaces_them() -> None:
    now = [0.0]
    limiter = Limiter(
        30, None, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    at = []
    for _ in range(4):
        limiter.take(1000)
        at.append(now[0])
    assert at == [0, 2, 4, 6]


def test_a_limit_of_tokens_spaces_long_requests_more() -> None:
    now = [0.0]
    limiter = Limiter(
        None, 6000, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    at = []
    for tokens in (100, 1000, 100, 1):
        limiter.take(tokens)
        at.append(round(now[0], 6))
    assert at == [0, 1, 11, 12]


def test_an_idle_minute_does_not_buy_a_burst() -> None:
    now = [0.0]
    limiter = Limiter(
        60, None, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s)
    )
    limiter.take(1)
    now[0] = 100.0
    at = []
    for _ in range(3):
        limiter.take(1)
        at.append(now[0])
    assert at == [100, 101, 102]


@pytest.mark.parametrize("rate", [0, -1])
def test_a_limit_that_lets_nobody_ask_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="allowed a minute must be more than 0"):
        Limiter(rate, None)


def test_the_price_is_known_before_anybody_is_asked() -> None:
    with serving(right) as server:
        price = chat(server, price_in=2.0, price_out=8.0, reports_a_request=4).price(texts(10))
    assert price is not None
    assert price.requests == 3
    assert price.amount == pytest.approx((2 * price.tokens_in + 8 * price.tokens_out) / 1e6)
    assert server.requests == []


def test_without_prices_the_tokens_are_known() -> None:
    price = Chat("http://127.0.0.1:1/v1", "m").price(texts(2))
    assert price is not None
    assert price.amount is None
    assert price.tokens_in > 100


def test_an_endpoint_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDFINDER_CHAT_URL", raising=False)
    with pytest.raises(ConfigError, match=r"chat endpoint has no address.*MEDFINDER_CHAT_URL"):
        Chat(model="m")


def test_an_endpoint_needs_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDFINDER_CHAT_MODEL", raising=False)
    with pytest.raises(ConfigError, match="model is not named - give --model"):
        Chat("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("name", ["concurrency", "reports_a_request"])
def test_a_setting_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Setting {name} of chat must be at least 1"):
        Chat("http://127.0.0.1:1/v1", "m", **{name: 0})  # type: ignore[arg-type]
