"""Where settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapeff.service.errors import ConfigError, first_line
from adapeff.service.masking import mask
from adapeff.service.paths import expanded, network_file_system
from adapeff.service.settings import load_settings, parse_stall_minutes


def test_each_source_beats_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user = tmp_path / "config" / "adapeff"
    user.mkdir(parents=True)
    (user / "config.toml").write_text(
        "lease_seconds = 10\nheartbeat_seconds = 1\nreconcile_seconds = 1\nmax_failures = 9\n"
    )
    (tmp_path / "adapeff.toml").write_text("lease_seconds = 20\nheartbeat_seconds = 2\nreconcile_seconds = 2\n")
    monkeypatch.setenv("ADAPEFF_LEASE_SECONDS", "30")
    monkeypatch.setenv("ADAPEFF_HEARTBEAT_SECONDS", "3")

    loaded = load_settings({"lease_seconds": 40})

    values = loaded.values
    assert (values.lease_seconds, values.heartbeat_seconds, values.reconcile_seconds) == (40, 3, 2)
    assert (values.max_failures, values.cores_per_slot) == (9, 1)
    assert loaded.origins["lease_seconds"] == "flag"
    assert loaded.origins["heartbeat_seconds"] == "environment ADAPEFF_HEARTBEAT_SECONDS"
    assert loaded.origins["reconcile_seconds"] == str(tmp_path / "adapeff.toml")
    assert loaded.origins["max_failures"] == str(user / "config.toml")
    assert loaded.origins["cores_per_slot"] == "default"


def test_own_variable_beats_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@h/plain")
    monkeypatch.setenv("REDIS_URL", "redis://h/1")
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", "postgresql://u:p@h/own")

    loaded = load_settings()

    assert loaded.values.database == "postgresql+psycopg://u:p@h/own"
    assert loaded.values.broker == "redis://h/1"
    assert loaded.origins["broker_url"] == "environment REDIS_URL"


def test_passwords_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", "postgresql://u:hush@h/d")
    monkeypatch.setenv("ADAPEFF_BROKER_URL", "redis://:hush@h:6379/0")

    printed = " ".join(value for _, value, _ in load_settings().rows())

    assert "hush" not in printed
    assert "u:***@h/d" in printed


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and not (" " in text and "://" in text)))
@example("redis://")
def test_no_password_survives_masking(password: str) -> None:
    assert mask(f"redis://user:{password}@host/0") == "redis://user:***@host/0"
    assert mask(f"redis://:{password}@host/0") == "redis://:***@host/0"


def test_text_between_two_addresses_stays_and_tokens_do_not() -> None:
    told = "moved from postgresql://u:hush@h/d to https://user:hush@proxy/x; see https://hf_0123456789abcdefgh@hub/y?token=hush"

    assert mask(told) == (
        "moved from postgresql://u:***@h/d to https://user:***@proxy/x; see https://***@hub/y?token=***"
    )


@pytest.mark.parametrize(
    ("told", "masked"),
    [
        ("https://hf_token@hub/x", "https://***@hub/x"),
        ("https://store/x?X-Amz-Signature=hush&part=1", "https://store/x?X-Amz-Signature=***&part=1"),
        ("https://store/x?sig=hush", "https://store/x?sig=***"),
        ("https://user@name:hush@proxy/", "https://user@name:***@proxy/"),
        (
            "https://store/x?client_secret=hush&apikey=hush#access_token=hush",
            "https://store/x?client_secret=***&apikey=***#access_token=***",
        ),
        ("HF_TOKEN=hush", "HF_TOKEN=***"),
    ],
)
def test_tokens_in_addresses_are_masked(told: str, masked: str) -> None:
    assert mask(told) == masked


def test_first_line_of_an_error_has_no_password_and_is_never_empty() -> None:
    assert first_line(ValueError("\n redis://:hush@h/0 is away\nmore")) == "redis://:***@h/0 is away"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_password_in_a_query_is_masked() -> None:
    assert mask("postgresql://u@h/d?password=hush&x=1") == "postgresql://u@h/d?password=***&x=1"


def test_malformed_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPEFF_DATABASE_URL", f"mysql://user:{'hush' * 30}@host/d")

    with pytest.raises(ConfigError, match=r"'database_url': expected sqlite") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("password", ["p#ss", "p[ss", "p:ss", "p@ss"])
def test_password_may_hold_what_addresses_may_not(password: str) -> None:
    url = f"postgresql://u:{password}@h:5432/d"

    assert load_settings({"database_url": url}).values.database == url.replace("postgresql", "postgresql+psycopg")


def test_relative_path_in_a_file_is_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapeff.toml").write_text("state_dir = 'st'\n")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")

    assert load_settings().values.state == tmp_path / "st"


def test_lease_must_outlive_heartbeats() -> None:
    with pytest.raises(ConfigError, match="heartbeat_seconds is 15, but a lease of 20 s"):
        load_settings({"lease_seconds": 20})


def test_state_lies_in_the_project_or_with_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().values.state == tmp_path / "data" / "adapeff"

    (tmp_path / "adapeff.toml").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")

    assert load_settings().values.state == tmp_path / ".adapeff"


def test_unknown_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPEFF_LEASE_SECOND", "3")

    with pytest.raises(ConfigError, match="did you mean 'ADAPEFF_LEASE_SECONDS'"):
        load_settings()


def test_unknown_key_in_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "adapeff.toml").write_text("databse_url = 'x'\n")

    with pytest.raises(ConfigError, match="did you mean 'database_url'"):
        load_settings()


def test_bad_value_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPEFF_MAX_FAILURES", "few")

    with pytest.raises(ConfigError, match=r"max_failures.*'few'.*ADAPEFF_MAX_FAILURES"):
        load_settings()


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/vda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n", "nfs4"),
        ("/dev/vda / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\n/dev/vdb /home/me ext4 rw 0 0\n", None),
        ("/dev/vda / ext4 rw 0 0\n//s/x /home/me cifs rw 0 0\n", "cifs"),
        ("/dev/vda / ext4 rw 0 0\n", None),
    ],
    ids=["nfs above", "local below nfs", "cifs", "local"],
)
def test_network_file_systems_are_recognised(mounts: str, kind: str | None) -> None:
    assert network_file_system(Path("/home/me/adapeff.db"), mounts) == kind


def test_home_of_nobody_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"'~nosuchuser/x': its home folder is unknown; set HOME"):
        expanded("~nosuchuser/x")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("120", {"": 120}),
        ("0", {"": 0}),
        ("90, prepare=600,train=0.5", {"": 90, "prepare": 600, "train": 0.5}),
        ("train=5", {"": 0, "train": 5}),
    ],
)
def test_minutes_until_a_run_is_stalled_may_depend_on_the_stage(text: str, minutes: dict[str, float]) -> None:
    assert parse_stall_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "-1", "5,traning=3", "train=", "nan", "inf", "5;6"])
def test_other_minutes_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is not a number of minutes, or STAGE=MINUTES with one of prepare, train"):
        parse_stall_minutes(text)
    if text:
        monkeypatch.setenv("ADAPEFF_STALL_MINUTES", text)
        with pytest.raises(ConfigError, match=r"stall_minutes.*STAGE=MINUTES"):
            load_settings()
