import socket

import httpx

FACTS = {"id", "object", "created", "owned_by", "path", "loaded", "repo_id", "quantization", "size_bytes",
         "downloaded_at", "model_type", "endpoints", "hosts"}


def test_models_that_are_whole_are_listed(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["echo", "unserved"]
    assert all(model.keys() == FACTS for model in listed["data"])
    assert [model["loaded"] for model in listed["data"]] == [True, False]
    assert [model["hosts"] for model in listed["data"]] == [{socket.gethostname(): 1}, {}]


def test_a_model_answers_to_its_aliases_with_and_without_a_slash(http: httpx.Client) -> None:
    names = ["echo", "echo-alias", "org/echo-repo", "org%2Fecho-repo"]
    assert {http.get(f"/v1/models/{name}").json()["id"] for name in names} == {"echo"}


def test_health_says_how_many_serve_each_model(http: httpx.Client) -> None:
    health = http.get("/health").json()

    assert health["status"] == "degraded"  # "unserved" and "absent" have no worker
    assert {name: model["ready"] for name, model in health["models"].items()} == {
        "echo": 1, "unserved": 0, "absent": 0
    }  # fmt: skip
    assert health["models"]["echo"].keys() == {
        "ready", "waiting", "running", "hosts", "replicas", "state"
    }  # fmt: skip
    assert http.head("/health").status_code == 200
