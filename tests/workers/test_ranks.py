"""Who is who among the ranks of a model, and what rank 0 and the others say to each other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.manifest import Manifest, ManifestError
from workers import ranks
from workers.ranks import Followers, Link, Place, RanksError

HOSTS = [["10.0.0.1:5000", "10.0.1.1:5001"], ["10.0.0.2:5002", "10.0.1.2:5003"]]


def environ(tmp_path: Path, hosts: str) -> dict[str, str]:
    (tmp_path / "hosts.json").write_text(hosts)
    return {"MLX_RANK": "1", "MLX_HOSTFILE": f"{tmp_path}/hosts.json"}


def loopback(size: int) -> Place:
    return Place(0, size, ("127.0.0.1", ranks.free_ports(1)))


def test_the_launcher_says_which_rank_a_process_is(tmp_path: Path) -> None:
    assert ranks.place(environ(tmp_path, json.dumps(HOSTS))) == Place(1, 2, ("10.0.0.1", 5000))


def test_ranks_over_rdma_meet_at_their_coordinator(tmp_path: Path) -> None:
    (tmp_path / "devices.json").write_text(json.dumps([[None, "rdma_en5"], ["rdma_en5", None]]))
    said = {"MLX_RANK": "0", "MLX_JACCL_COORDINATOR": "10.0.0.1:32323"}
    said["MLX_IBV_DEVICES"] = f"{tmp_path}/devices.json"
    assert ranks.place(said) == Place(0, 2, ("10.0.0.1", 32323))


def test_a_process_that_is_alone_is_no_rank(tmp_path: Path) -> None:
    assert ranks.place({}) is None
    assert ranks.place(environ(tmp_path, "\n")) is None  # mlx.launch -n 1


def test_a_backend_without_addresses_is_refused() -> None:
    with pytest.raises(RanksError, match="--backend ring"):
        ranks.place({"MLX_RANK": "0"})


def test_what_rank_0_tells_arrives_whole_and_in_order() -> None:
    first = loopback(3)
    followers = Followers(first)
    links = [Link(first._replace(rank=rank)) for rank in (1, 2)]
    for link in links:
        link.ready()
    followers.gather()
    messages = [b"a", b"b" * 1_000_000, b"c"]
    for message in messages:
        followers.tell(message)
    followers.close()
    for link in links:
        assert [link.receive() for _ in messages] == messages
        assert link.receive() is None


def test_a_rank_that_never_comes_is_told_of() -> None:
    broken = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RanksError, match="Rank 1 has ended with status 3"):
        Followers(loopback(2), [broken]).gather()


def test_an_address_of_another_host_is_told_of() -> None:
    with pytest.raises(RanksError, match=r"hosts: nothing can listen at 192\.0\.2\.1:"):
        Followers(Place(0, 2, ("192.0.2.1", 20_000)))


@pytest.mark.parametrize(
    ("engine", "hosts", "problem"),
    [
        ("asr", '["a", "b"]', "only language models"),
        ("llm", '["a"]', "two or more"),
        ("llm", '["a", "-oProxyCommand=x"]', "hosts"),
    ],
)
def test_hosts_that_cannot_be_are_refused(tmp_path: Path, engine: str, hosts: str, problem: str) -> None:
    models = tmp_path / "models.toml"
    models.write_text(f'[[model]]\nid = "m"\nengine = "{engine}"\nsource = "x"\nhosts = {hosts}\n')
    with pytest.raises(ManifestError, match=problem):
        Manifest.load(models)
