"""Settings of the service: the command line counts before the environment, that before the file."""

import dataclasses

import pytest

from medfinder.errors import ConfigError
from medfinder.serve.config import PREFIX, ServeConfig, load_serve_config

FILE = """
[curate]
workers = 3
[serve]
port = 1111
max_uploads = 2
host_names = ["ct.example"]
[serve.tracing]
endpoint = "http://127.0.0.1:4318"
[serve.ingest]
pseudonym_key = "from-the-file"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(FILE)
    return path


def test_without_anything_the_defaults_stand():
    assert load_serve_config() == ServeConfig()


def test_a_file_sets_what_it_names(file):
    config = load_serve_config(file)
    assert (config.port, config.max_uploads, config.host_names) == (1111, 2, ("ct.example",))
    assert config.tracing.endpoint == "http://127.0.0.1:4318"
    assert config.max_body_bytes == ServeConfig().max_body_bytes


def test_the_environment_counts_before_the_file_and_the_command_line_before_both(file):
    environment = {"MEDFINDER_SERVE_PORT": "2222", "MEDFINDER_SERVE_MAX_UPLOADS": "7", "HOME": "x"}
    config = load_serve_config(file, environment, ["port=3333"])
    assert (config.port, config.max_uploads) == (3333, 7)


def test_the_environment_reaches_tables_and_lists():
    environment = {
        "MEDFINDER_SERVE_TRACING__SHARE": "0.5",
        "MEDFINDER_SERVE_HOST_NAMES": '["a.example", "b.example"]',
        "MEDFINDER_SERVE_INGEST__PSEUDONYM_KEY": "12345",
    }
    config = load_serve_config(None, environment)
    assert config.tracing.share == 0.5
    assert config.host_names == ("a.example", "b.example")
    assert config.ingest.pseudonym_key == "12345"  # a text, though it looks like a number


def test_every_setting_has_a_variable_of_its_own():
    for field in dataclasses.fields(ServeConfig):
        value = getattr(ServeConfig(), field.name)
        if dataclasses.is_dataclass(value) or not isinstance(value, int | float):
            continue
        loaded = load_serve_config(None, {PREFIX + field.name.upper(): str(value)})
        assert getattr(loaded, field.name) == value


def test_other_variables_of_medfinder_are_left_alone():
    assert load_serve_config(None, {"MEDFINDER_DEBUG": "1", "MEDFINDER_PACS_TOKEN": "x"})


def test_an_unknown_variable_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'MEDFINDER_SERVE_MAX_UPLOADS'"):
        load_serve_config(None, {"MEDFINDER_SERVE_MAX_UPLOAD": "3"})


def test_an_unknown_setting_of_the_file_names_the_nearest(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("[serve.tracing]\nendpoit = 'x'\n")
    with pytest.raises(ConfigError, match=r"Did you mean 'tracing\.endpoint'"):
        load_serve_config(path)


def test_a_file_for_another_stage_is_told(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("[server]\nport = 1\n")
    with pytest.raises(ConfigError, match=r"no table \[serve\]\. Did you mean that by 'server'"):
        load_serve_config(path)


@pytest.mark.parametrize(
    "override",
    ["port=70000", "workers=0", "workers=1000", "max_uploads=0", "stop_s=-1", "tracing.share=2",
     "ingest.max_jobs=0", "port=many", "max_upload_bytes=0"],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(override):
    with pytest.raises(ConfigError, match=r"expected|must be"):
        load_serve_config(None, None, [override])


def test_a_secret_is_not_taken_from_the_command_line():
    with pytest.raises(ConfigError, match="MEDFINDER_SERVE_INGEST__PSEUDONYM_KEY") as error:
        load_serve_config(None, None, ["ingest.pseudonym_key=hush"])
    assert error.value.rule == "secret-in-command"
    assert "hush" not in str(error.value)


def test_a_bad_secret_is_not_repeated(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("[serve.ingest]\npseudonym_key = 1234567\n")
    with pytest.raises(ConfigError) as error:
        load_serve_config(path)
    assert "1234567" not in str(error.value)
