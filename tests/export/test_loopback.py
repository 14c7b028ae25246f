"""loopback: the small Hub through the real client, in a process that is offline (conftest sees to it)."""

import hashlib
import random

import httpx
import pytest
from faulty_hub import FaultyHub
from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

from lessonlib.export._loopback import Token, reachable

CARD = b"---\nlicense: mit\n---\n# A model\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits before it tries again."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


@pytest.fixture
def hub():
    with FaultyHub() as server, reachable(server.url):
        yield server


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=hub.token)


def content(size, seed=0):
    return random.Random(seed).randbytes(size)


def add(**files):
    return [CommitOperationAdd(name.replace("__", "."), data) for name, data in files.items()]


def sent(hub, method, part):
    return [request.path for request in hub.requests if request.method == method and part in request.path]


def fetched(hub, tmp_path, revision="main", name="learner/model"):
    folder = snapshot_download(
        name, revision=revision, local_dir=tmp_path / revision, endpoint=hub.url, token=hub.token
    )
    paths = (tmp_path / revision).rglob("*")
    assert folder == str(tmp_path / revision)
    files = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".cache/")}


# ---- uploads ----


@pytest.mark.parametrize("size, puts", [(0, 0), (1, 1), (5000, 1)])
def test_what_was_pushed_comes_back_to_the_byte(hub, api, tmp_path, size, puts):
    """Large files go up by themselves, an empty one in the commit."""
    weights = content(size)
    api.create_repo("learner/model", private=True)
    operations = add(README__md=CARD, model__safetensors=weights)
    pushed = api.create_commit("learner/model", operations, commit_message="first")
    arrived = fetched(hub, tmp_path, pushed.oid)
    assert arrived.pop(".gitattributes").startswith(b"*.safetensors filter=lfs")
    assert arrived == {"README.md": CARD, "model.safetensors": weights}
    assert len(sent(hub, "PUT", "/lfs/")) == puts


def test_names_and_digests_are_those_of_git_and_of_large_file_storage(hub, api):
    weights = content(300)
    api.create_repo("learner/model")
    api.create_commit("learner/model", add(README__md=CARD, m__gguf=weights), commit_message="first")
    tree = {entry.path: entry for entry in api.list_repo_tree("learner/model", recursive=True)}
    assert tree["README.md"].blob_id == hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    assert tree["README.md"].lfs is None and tree["README.md"].size == len(CARD)
    assert tree["m.gguf"].lfs.sha256 == hashlib.sha256(weights).hexdigest() and tree["m.gguf"].lfs.size == 300


def test_folders_in_the_tree(hub, api):
    api.create_repo("learner/model")
    operations = [CommitOperationAdd(name, CARD) for name in ("a/b/c.md", "a/d.md", "e.md")]
    api.create_commit("learner/model", operations, commit_message="first")

    def names(**options):
        return [entry.path for entry in api.list_repo_tree("learner/model", **options)]

    assert names() == [".gitattributes", "a", "e.md"]
    assert names(recursive=True) == [".gitattributes", "a", "a/b", "a/b/c.md", "a/d.md", "e.md"]
    assert names(path_in_repo="a") == ["a/b", "a/d.md"]


def test_each_commit_stays_as_it_was(hub, api, tmp_path):
    api.create_repo("learner/model")
    oids = [
        api.create_commit("learner/model", add(README__md=CARD + line), commit_message="card").oid
        for line in (b"one", b"two")
    ]
    assert [fetched(hub, tmp_path, oid)["README.md"] for oid in oids] == [CARD + b"one", CARD + b"two"]
    assert api.model_info("learner/model").sha == oids[1] != oids[0]
    assert len(hub.repositories["learner/model"].commits) == 3  # and the one that made the repository


def test_what_has_not_changed_makes_no_commit_and_is_not_sent_again(hub, api):
    files = {"README__md": CARD, "model__safetensors": content(2500)}
    api.create_repo("learner/model")
    first = api.create_commit("learner/model", add(**files), commit_message="first")
    hub.requests.clear()
    assert api.create_commit("learner/model", add(**files), commit_message="again").oid == first.oid
    assert sent(hub, "PUT", "") == [] and sent(hub, "POST", "/commit/") == []
    # the same weights under another name need a commit, and no upload
    second = api.create_commit("learner/model", add(copy__safetensors=content(2500)), commit_message="copy")
    assert second.oid != first.oid and sent(hub, "PUT", "") == []


def test_a_commit_onto_an_older_one_is_refused(hub, api):
    api.create_repo("learner/model")
    old = api.model_info("learner/model").sha
    newer = api.create_commit("learner/model", add(README__md=CARD), commit_message="first").oid
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("learner/model", add(a__md=CARD), commit_message="late", parent_commit=old)
    api.create_commit("learner/model", add(a__md=CARD), commit_message="in time", parent_commit=newer)


def test_a_large_file_with_another_content_than_was_said_is_not_kept(hub, api):
    api.create_repo("learner/model")
    (wrong,) = add(model__safetensors=content(50))
    wrong.upload_info.sha256 = hashlib.sha256(b"something else").digest()
    with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as caught:
        api.create_commit("learner/model", [wrong], commit_message="first")
    assert "another sha256" in str(caught.value.__cause__)
    assert list(hub.repositories["learner/model"].commits.values())[-1].keys() == {".gitattributes"}


def test_a_large_file_whose_answer_got_lost_may_be_sent_again(hub, api):
    api.create_repo("learner/model")
    data = content(2500)
    api.create_commit("learner/model", add(m__gguf=data), commit_message="first")
    (path,) = sent(hub, "PUT", "/lfs/")
    assert httpx.put(f"{hub.url}{path}", content=b"other", trust_env=False).status_code == 200
    (file,) = [it for it in hub.repositories["learner/model"].commits.popitem()[1].values() if it.large]
    assert file.path.read_bytes() == data


def test_what_was_never_promised_or_uploaded_is_refused(hub):
    oid = hashlib.sha256(b"x").hexdigest()
    assert httpx.put(f"{hub.url}/lfs/{oid}", content=b"x", trust_env=False).status_code == 403
    hub.repositories.clear()
    HfApi(endpoint=hub.url, token=hub.token).create_repo("learner/model")
    for name in (oid, "../../secret", "0" * 63):
        lines = b'{"key":"header","value":{"summary":"s"}}\n{"key":"lfsFile","value":{"path":"a","oid":"%s"}}'
        answer = httpx.post(
            f"{hub.url}/api/models/learner/model/commit/main", content=lines % name.encode(),
            headers={"Authorization": f"Bearer {hub.token}"}, trust_env=False,
        )
        assert answer.status_code == 400 and "never uploaded" in answer.text


def test_a_dataset_is_another_repository_than_a_model_of_the_same_name(hub, api, tmp_path):
    api.create_repo("learner/model")
    api.create_repo("learner/model", repo_type="dataset")
    api.create_commit("learner/model", add(a__parquet=content(50)), commit_message="a", repo_type="dataset")
    assert sorted(hub.repositories) == ["datasets/learner/model", "learner/model"]
    assert "a.parquet" in hub.repositories["datasets/learner/model"].commits[
        api.dataset_info("learner/model").sha
    ]
    assert api.list_repo_files("learner/model") == [".gitattributes"]


# ---- who may do what ----


def test_whose_a_token_is(hub, api):
    assert api.whoami()["name"] == "learner"
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    hub.tokens["hf_fine"] = Token("learner", "fineGrained", ("repo.write",))
    said = HfApi(endpoint=hub.url, token="hf_fine").whoami()["auth"]["accessToken"]
    assert said["fineGrained"]["scoped"][0]["permissions"] == ["repo.write"]


@pytest.mark.parametrize("token, status", [
    (False, 401), ("hf_unknown", 401), ("hf_reader", 403), ("hf_fine_reader", 403), ("hf_of_another", 403),
    ("hf_writer", None), ("hf_fine_writer", None),
])  # fmt: skip
def test_only_a_token_that_may_write_writes(hub, api, token, status):
    hub.tokens |= {
        "hf_reader": Token("learner", "read"),
        "hf_fine_reader": Token("learner", "fineGrained", ("repo.content.read",)),
        "hf_of_another": Token("another"),
        "hf_writer": Token("learner"),
        "hf_fine_writer": Token("learner", "fineGrained", ("repo.content.read", "repo.write")),
    }
    api.create_repo("learner/model")
    other = HfApi(endpoint=hub.url, token=token)
    attempts = [
        lambda: other.create_repo("learner/new"),
        lambda: other.create_commit("learner/model", add(README__md=CARD), commit_message="first"),
        lambda: other.create_commit("learner/model", add(m__gguf=content(9)), commit_message="first"),
    ]
    for attempt in attempts:
        if status is None:
            attempt()
        else:
            with pytest.raises(HfHubHTTPError) as caught:
                attempt()
            assert caught.value.response.status_code == status
    assert (len(hub.repositories["learner/model"].commits) == 1) == (status is not None)
    assert ("learner/new" in hub.repositories) == (status is None)


def test_a_private_repository_is_missing_for_strangers(hub, api):
    api.create_repo("learner/model", private=True)
    assert api.model_info("learner/model").private is True
    for token in (False, "hf_unknown"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.url, token=token).model_info("learner/model")
    api.create_repo("learner/open", private=False)
    assert HfApi(endpoint=hub.url, token=False).model_info("learner/open").private is False


def test_a_repository_that_is_there(hub, api):
    api.create_repo("learner/model")
    before = api.model_info("learner/model").sha
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("learner/model")
    assert api.create_repo("learner/model", exist_ok=True).repo_id == "learner/model"
    assert api.model_info("learner/model").sha == before


def test_what_is_not_there(hub, api, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.create_commit("learner/missing", add(README__md=CARD), commit_message="first")
    api.create_repo("learner/model")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("learner/model", revision="f" * 40)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("learner/model", add(a__md=CARD), commit_message="first", revision="branch")
    (tmp_path / "a.txt").write_text("a")
    hub.add("meta/gated", tmp_path, revision="1" * 40, gated=True)
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("meta/gated", "a.txt", cache_dir=tmp_path / "cache")


# ---- failures on demand ----


def test_it_fails_where_it_is_told_to(hub, api):
    api.create_repo("learner/model")
    hub.fail = lambda request: 503 if request.path.endswith("/commit/main") else None
    with pytest.raises(HfHubHTTPError, match="503"):
        api.create_commit("learner/model", add(m__gguf=content(1500)), commit_message="first")
    assert len(sent(hub, "PUT", "/lfs/")) == 1
    hub.fail = lambda request: 0 if request.method == "PUT" else None  # hangs up
    with pytest.raises(RuntimeError) as caught:
        api.create_commit("learner/model", add(n__gguf=content(1500, seed=1)), commit_message="first")
    assert isinstance(caught.value.__cause__, httpx.RemoteProtocolError)
    hub.fail, hub.outage = None, 500
    with pytest.raises(HfHubHTTPError, match="500"):
        api.whoami()
    hub.outage = None
    assert list(hub.repositories["learner/model"].commits.values())[-1].keys() == {".gitattributes"}


def test_a_download_that_breaks_once(hub, api, tmp_path):
    api.create_repo("learner/model")
    data = content(70_000)
    api.create_commit("learner/model", add(m__gguf=data), commit_message="first")
    hub.cuts["m.gguf"] = 1
    assert fetched(hub, tmp_path)["m.gguf"] == data
    assert len(sent(hub, "GET", "/m.gguf")) == 2


# ---- what the process may reach ----


def test_offline_stays_offline_but_for_the_one_server(hub, api):
    assert api.whoami()["name"] == "learner"
    for url in ("https://huggingface.co/api/models/gpt2", hub.url.replace("127.0.0.1", "127.0.0.2")):
        with pytest.raises(OfflineModeIsEnabled, match="Cannot reach"):
            _http.get_session().get(url)


def test_afterwards_everything_is_as_it_was():
    names = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")
    before = [getattr(constants, name) for name in names], _http._GLOBAL_CLIENT_FACTORY
    assert constants.HF_HUB_OFFLINE is True
    with FaultyHub() as server:
        with pytest.raises(ZeroDivisionError), reachable(server.url):
            assert not constants.HF_HUB_OFFLINE
            _http.get_session().get(f"{server.url}/api/whoami-v2")
            raise ZeroDivisionError
        assert ([getattr(constants, name) for name in names], _http._GLOBAL_CLIENT_FACTORY) == before
        with pytest.raises(OfflineModeIsEnabled):
            HfApi(endpoint=server.url, token=server.token).whoami()


@pytest.mark.parametrize("endpoint", [None, "https://huggingface.co", "http://10.0.0.1:80"])
def test_for_other_endpoints_nothing_changes(endpoint):
    factory = _http._GLOBAL_CLIENT_FACTORY
    with reachable(endpoint):
        assert constants.HF_HUB_OFFLINE is True and _http._GLOBAL_CLIENT_FACTORY is factory


def test_where_the_network_was_allowed_it_stays_allowed(monkeypatch):
    """Two servers, one of them in the place of the rest of the world."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FaultyHub() as server, FaultyHub() as world, reachable(server.url):
        assert _http.get_session().get(f"{world.url}/api/whoami-v2").status_code == 401


def test_it_goes_through_no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with FaultyHub() as server, reachable(server.url):
        assert HfApi(endpoint=server.url, token=server.token).whoami()["name"] == "learner"


def test_it_listens_on_this_machine_only_and_leaves_nothing_behind():
    from pathlib import Path

    with FaultyHub() as server, reachable(server.url):
        assert server._server.server_address[0] == "127.0.0.1"
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_repo("learner/model")
        api.create_commit("learner/model", add(m__gguf=content(50)), commit_message="first")
        kept = Path(server.uploaded.name)
        # Bodies of requests are gone; what stays is what was committed.
        assert sorted(path.name for path in kept.iterdir()) == ["large", "regular"]
    assert not kept.exists()
    assert server.token not in repr(server)
