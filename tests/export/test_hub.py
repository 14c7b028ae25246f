"""hub: which one is published to, whose the token is and what it may do."""

import os
import tempfile
from contextlib import closing

import pytest
from faulty_hub import FaultyHub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import _http

from lessonlib.export import _hub as hubs
from lessonlib.export._hub import Hub, account
from lessonlib.export._loopback import Token, reachable
from lessonlib.runtime._detect import Gpu, Secret, detect
from lessonlib.runtime._language import LessonError

T4 = Gpu("Tesla T4", (7, 5), 14.7)
HF_TOKEN = "hf_" + "aB3" * 12  # made of pieces, so that no scanner of this repository takes it for a real one
REPO = "learner/model"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    for name in ("HF_TOKEN", "LESSONLIB_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LESSONLIB_HEADLESS", "1")


# ---- whose a token is ----


@pytest.fixture
def hub():
    with FaultyHub(user="nga") as server:
        yield server


def test_the_hub_says_who_is_logged_in(hub):
    login = Hub(hub, hub.token)
    assert (login.user, login.token, login.endpoint, login.rehearsal) == ("nga", hub.token, hub.url, True)
    assert isinstance(login.token, Secret) and hub.token not in repr(login)
    assert {request.token for request in hub.requests} == {hub.token}


def test_the_token_is_stored_nowhere(hub, monkeypatch, tmp_path):
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, name, str(tmp_path / name))
    account(hub.token, hub.url)
    assert list(tmp_path.iterdir()) == [] and hub.token not in os.environ.values()


def test_an_unknown_token_names_page_and_permission(hub):
    said = "does not know the token.*huggingface.co/settings/tokens.*permission Write.*secret HF_TOKEN"
    with pytest.raises(LessonError, match=said) as caught:
        account("hf_mistyped", hub.url)
    assert "hf_mistyped" not in caught.value.en + caught.value.vi and "quyền Write" in caught.value.vi


@pytest.mark.parametrize("role, permissions, writes", [
    ("read", (), False), ("write", (), True), ("something new", (), True), ("fineGrained", (), False),
    ("fineGrained", ("repo.content.read",), False), ("fineGrained", ("discussion.write", "repo.write"), True),
])  # fmt: skip
def test_a_token_that_only_reads_is_refused(hub, role, permissions, writes):
    hub.tokens["hf_this"] = Token("nga", role, permissions)
    if writes:
        assert account("hf_this", hub.url) == "nga"
    else:
        with pytest.raises(LessonError, match="may only read.*settings/tokens.*type Write"):
            account("hf_this", hub.url)


def test_an_outage_names_the_status(hub):
    hub.outage = 503
    with pytest.raises(LessonError, match="error 503 for http://127.*status.huggingface.co"):
        account(hub.token, hub.url)


def test_a_hub_that_breaks_off_or_cannot_be_reached(hub):
    hub.fail = lambda request: 0
    with pytest.raises(LessonError, match="of http://127.* broke off.*Run this cell again"):
        account(hub.token, hub.url)
    with pytest.raises(LessonError, match="cannot be reached.*HF_HUB_OFFLINE.*rehearsal"):  # huggingface.co
        account("hf_anything")


def test_unknown_problems_are_left_as_they_are(hub, monkeypatch):
    monkeypatch.setattr(HfApi, "whoami", lambda self: {}["inside"])
    with pytest.raises(KeyError, match="inside"):
        account(hub.token, hub.url)


# ---- which Hub ----


def test_in_rehearsal_the_hub_is_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)  # even so: no twin is ever published
    rt = detect(family="llama", profile="rehearsal", gpu=None, work=tmp_path / "work")
    with closing(hubs.hub(rt)) as hub:
        assert hub.rehearsal and hub.user == "learner" and hub.endpoint.startswith("http://127.0.0.1:")
        assert isinstance(hub.token, Secret) and hub.token != HF_TOKEN
        with reachable(hub.endpoint):
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            assert api.create_repo(REPO).repo_id == REPO
    assert capsys.readouterr().out.splitlines()[0] == (
        "Hub: on this machine (rehearsal), nothing is sent anywhere."
    )
    hub.close()  # a second time is no harm


def test_on_a_gpu_without_a_token_it_rehearses_too(tmp_path, capsys):
    rt = detect(family="llama", gpu=T4, work=tmp_path, backend="transformers")
    with closing(hubs.hub(rt, publish=True)) as hub:
        assert hub.rehearsal
    assert "on this machine (no HF_TOKEN)" in capsys.readouterr().out


def test_nobody_publishes_without_asking(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    rt = detect(family="llama", gpu=T4, work=tmp_path, backend="transformers")
    with closing(hubs.hub(rt)) as hub:
        assert hub.rehearsal and hub.token != HF_TOKEN
    assert "on this machine (nobody asked to publish)" in capsys.readouterr().out


def test_a_laptop_publishes_nothing_even_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    rt = detect(family="llama", profile="laptop", gpu=None, work=tmp_path)
    with closing(hubs.hub(rt, publish=True)) as hub:
        assert hub.rehearsal


def test_a_token_that_may_only_read_stays_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    said = {"name": "nga", "auth": {"accessToken": {"role": "read"}}}
    monkeypatch.setattr(HfApi, "whoami", lambda self: said if self.token == HF_TOKEN else {"name": "learner"})
    rt = detect(family="llama", gpu=T4, work=tmp_path, backend="transformers")
    with closing(hubs.hub(rt, publish=True)) as hub:
        assert hub.rehearsal and hub.token != HF_TOKEN
    out = capsys.readouterr().out
    assert "The token in HF_TOKEN may only read." in out and "on this machine (HF_TOKEN may only read)" in out


def test_on_a_gpu_with_a_token_it_is_the_real_one(tmp_path, monkeypatch, capsys):
    """The real Hub is out of reach here; what is checked is that it would be asked, with this token."""
    rt = detect(family="llama", gpu=T4, work=tmp_path, backend="transformers")
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    with pytest.raises(LessonError, match="cannot be reached for huggingface.co"):
        hubs.hub(rt, publish=True)
    asked = []

    def whoami(self):
        asked.append((self.endpoint, self.token))
        return {"name": "nga", "auth": {"accessToken": {"role": "write"}}}

    monkeypatch.setattr(HfApi, "whoami", whoami)
    with closing(hubs.hub(rt, publish=True)) as hub:
        assert (hub.endpoint, hub.token, hub.user, hub.rehearsal) == (None, HF_TOKEN, "nga", False)
    assert asked == [("https://huggingface.co", HF_TOKEN)]
    assert capsys.readouterr().out == "Hub: huggingface.co/nga\n"


def test_a_rehearsal_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    rt = detect(family="llama", profile="rehearsal", gpu=None, work=tmp_path / "work")
    with closing(hubs.hub(rt)) as hub:
        assert list((tmp_path / "temporary").iterdir()) != []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert hub.token not in os.environ.values()
