"""Which model answers."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from xar_agent.agent.choose import choose_model, open_model
from xar_agent.errors import ConfigError, ModelUnavailable, UnknownName

LOCAL = "local/qwen2.5-coder-1.5b"
KEY = {"ANTHROPIC_API_KEY": "sk-ant-0123456789abcdef"}


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """URL of a server that lists models, and the list."""
    names = ["tiny-coder"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": name} for name in names]}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", names
        server.shutdown()
        thread.join()


def test_without_anything_the_embedded_model_is_used_and_the_line_says_what_it_can() -> None:
    choice = choose_model(None, environ={})
    assert (choice.name, choice.kind) == (LOCAL, "local")
    assert choice.line.startswith(
        f"model {LOCAL} (no model was named and no key was found): small local model: changes"
    )
    assert "\n" not in choice.line


def test_the_flag_beats_the_settings_which_beat_the_environment_which_beats_a_key() -> None:
    environ = {**KEY, "OPENAI_API_KEY": "sk-0123456789abcdef", "XAR_MODEL": "openai/from-environment"}
    assert choose_model("anthropic/a", configured="openai/b", environ=environ).name == "anthropic/a"
    assert choose_model(None, configured="openai/b", environ=environ).name == "openai/b"
    named = choose_model(None, environ=environ)
    assert (named.name, named.kind, named.source) == ("openai/from-environment", "hosted", "XAR_MODEL")
    found = choose_model(None, environ=KEY)
    assert (found.name.split("/")[0], found.kind, found.source) == ("anthropic", "hosted", "ANTHROPIC_API_KEY is set")


def test_a_hosted_model_says_that_things_leave_the_machine_and_never_shows_the_key() -> None:
    line = choose_model(None, environ=KEY).line
    assert "sent there" in line
    assert "sk-ant" not in line


def test_a_named_server_is_used_without_a_key(served: tuple[str, list[str]]) -> None:
    url, _ = served
    choice = choose_model("openai/tiny-coder", environ={"OPENAI_BASE_URL": url})
    assert (choice.kind, choice.api_base) == ("server", url)
    model = open_model(choice)
    assert (model.name, model.protocol) == ("openai/tiny-coder", "native")
    model.close()


def test_a_server_alone_stands_for_its_only_model_but_not_for_one_of_several(served: tuple[str, list[str]]) -> None:
    url, names = served
    assert choose_model(None, environ={"OPENAI_BASE_URL": f"{url}/"}).name == "openai/tiny-coder"
    names.append("other")
    with pytest.raises(ConfigError, match="openai/tiny-coder, openai/other"):
        choose_model(None, environ={"OPENAI_BASE_URL": url})


def test_a_server_that_does_not_answer_or_is_no_url_is_one_clear_error() -> None:
    with pytest.raises(ModelUnavailable, match="does not answer"):
        choose_model(None, environ={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    with pytest.raises(ConfigError, match="is not a URL"):
        choose_model("openai/a", environ={"OPENAI_BASE_URL": "localhost:8000"})


@pytest.mark.parametrize("name", ["", "nonsense", "local/gpt-9", "openai/", "two words/x"])
def test_a_name_that_no_model_can_have_is_refused_with_one_that_works(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        choose_model(name, environ={})
    assert LOCAL in caught.value.hint


def test_a_provider_without_its_key_is_unavailable_before_anything_is_sent() -> None:
    with pytest.raises(ModelUnavailable, match="needs OPENAI_API_KEY") as caught:
        choose_model("openai/gpt-5-mini", environ={})
    assert LOCAL in caught.value.hint


def test_opening_the_embedded_model_needs_its_file() -> None:
    with pytest.raises(ModelUnavailable, match="has not been fetched"):
        open_model(choose_model(LOCAL, environ={}))


@pytest.mark.model
def test_the_embedded_model_opens_without_starting_its_server(model_file: object) -> None:
    model = open_model(choose_model(LOCAL, environ={}))
    assert (model.name, model.protocol) == (LOCAL, "guided")
    model.close()


def test_a_server_of_openais_protocol_is_no_ollama_server() -> None:
    environ = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    assert choose_model("ollama_chat/qwen3", environ=environ).api_base is None
    own = choose_model("ollama_chat/qwen3", api_base="http://127.0.0.1:8/", environ=environ)
    assert own.api_base == "http://127.0.0.1:8"
