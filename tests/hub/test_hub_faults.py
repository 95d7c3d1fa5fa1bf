"""Every way in which the Hub or the network can fail, at random places, while a set is shared.

After each the outcome is the right set or a clear error; on the Hub there is the old set or the new
one; and the next try, without the fault, works.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from neuronsteer.errors import ArtifactError, HubError, StatsError
from neuronsteer.hub import errors as hub_errors
from neuronsteer.hub import read_folder
from neuronsteer.hub import upload as hub_upload
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.stats import Stats
from tests.sharing import make_set, make_stats, same_stats

pytest_plugins = ("tests.hub_server.fixtures",)

# What stands between the client and the Hub may say of a content.
TAGS = [
    lambda rng: f'"{rng.randbytes(20).hex()}"',
    lambda rng: f'"{rng.randbytes(32).hex()}"',
    lambda rng: lambda tag: f"W/{tag}",
    lambda rng: lambda tag: tag[:-1] + '-gzip"',
    lambda rng: None,
]
DATES = ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT", "yesterday", None]


def wrong_tag(rng):
    tag = rng.choice(TAGS)(rng)
    return {"headers": {"ETag": tag, "X-Linked-ETag": tag}}


# Options of a fault, drawn anew for every run.
KINDS = {
    "rate_limit": lambda rng: {"retry_after": rng.randint(0, 40), "ratelimit": rng.random() < 0.5},
    "unavailable": lambda rng: {"retry_after": rng.choice([None, 0, 3, rng.choice(DATES)])},
    "server_error": lambda rng: {},
    "status": lambda rng: {
        "status": rng.choice([200, 400, 403, 407, 408, 418, 502, 504]),
        "body": b"<html>Bad Gateway</html>",
    },
    "expired_token": lambda rng: {},
    "conflict": lambda rng: {"status": rng.choice([409, 412])},
    "drop": lambda rng: {"reset": rng.random() < 0.5},
    "silence": lambda rng: {},
    "cut_request": lambda rng: {"at": rng.random(), "reset": rng.random() < 0.5},
    "corrupt_request": lambda rng: {"at": rng.random()},
    "lost_response": lambda rng: {"reset": rng.random() < 0.5},
    "cut_response": lambda rng: {"at": rng.random(), "reset": rng.random() < 0.5},
    "short_body": lambda rng: {"at": rng.random()},
    "stopped_body": lambda rng: {"at": rng.random()},
    "wrong_length": lambda rng: {"delta": rng.choice([-1, 1]) * rng.randint(1, 90)},
    "corrupt": lambda rng: {"at": rng.random()},
    "slow": lambda rng: {"delay": 0.002, "pieces": rng.randint(2, 5)},
    "wrong tag": wrong_tag,
    "wrong commit": lambda rng: {
        "headers": {"X-Repo-Commit": rng.choice([None, rng.randbytes(20).hex()])}
    },
    "wrong size": lambda rng: {"headers": {"X-Linked-Size": rng.choice([None, "7", "many"])}},
    "skewed clock": lambda rng: {
        "headers": {"Date": rng.choice(DATES), "Last-Modified": rng.choice(DATES)}
    },
}
# These pass by themselves: once is not seen from outside.
PASSING = ("rate_limit", "unavailable", "server_error", "drop", "cut_request", "cut_response")
PASSING += ("lost_response", "short_body", "wrong_length", "corrupt", "slow")
PULLS = ("HEAD", "GET storage", "GET .*(adapter_config|stats.json)", "GET .*resolve", ".")
PUSHES = ("commit/main", "preupload", "batch", "storage", "verify$", "api/repos/create")
PUSHES += ("validate-yaml", "POST", "PUT", "models/ann/set", "resolve", ".")
# What the client waits for in real time; everything else is not waited for.
WAITING = ("silence", "stopped_body")
# A download sends nothing that could be cut on its way.
TO_HUB = ("cut_request", "corrupt_request")
FROM_HUB = [kind for kind in KINDS if kind not in TO_HUB]


def runs(kinds):
    """One run of every kind, which is always made, and twelve others.

    Those are 708 plans for the three ways together. A plan may wait for a request that never comes;
    at least 500 strike.
    """
    others = (pytest.param([k], range(1, 13), marks=pytest.mark.exhaustive, id=k) for k in kinds)
    return pytest.mark.parametrize(
        ("kinds", "numbers"), [pytest.param(list(kinds), range(1), id="sample"), *others]
    )


OLD, NEW = make_set(0), make_set(1)


@pytest.fixture(autouse=True)
def _quick(hub, monkeypatch):
    monkeypatch.setattr(hub_errors, "sleep", hub.sleep)
    monkeypatch.setattr(card, "draw_layers", lambda layers: b"\x89PNG\0" + repr(layers).encode())


@pytest.fixture
def patience(hub, monkeypatch):
    """Sets how long the client and the library wait for a Hub that is silent."""

    def take(seconds):
        hub.timeouts(seconds)
        for module in (hub_errors, hub_upload):
            monkeypatch.setattr(module, "LONGEST_SILENCE", seconds)

    return take


def push(neurons, **options):
    return neurons.push_to_hub("ann/set", peft=False, **options)


def pull(**options):
    return NeuronSet.from_pretrained("ann/set", **options)


def told(error):
    """What a user reads: one sentence that names the repository, and no traceback's text."""
    text = str(error)
    return "ann/set" in text and len(text) > 40 and "\n" not in text and "hf_ann" not in text


def plan(hub, rng, kind, matches, patience):
    hub.faults.clear()
    match, options = rng.choice(matches), KINDS[kind](rng)
    times, skip = rng.choice([1, 1, 2, 3, 7, None]), rng.choice([0, 0, 0, 0, 1])
    patience(0.5 if kind in WAITING else 30.0)
    if kind in WAITING:
        times = 1
    name = "headers" if "headers" in options else kind
    return hub.faults.add(match, name, times=times, skip=skip, **options), (match, options, times)


def each_run(way, kinds, numbers):
    """Kind and random numbers of the runs, the same for a run whichever others there are."""
    return [(kind, random.Random(f"{kind} {way} {run}")) for kind in kinds for run in numbers]


def bring(hub, load, same, way, kinds, numbers, note, patience):
    hits = 0
    for kind, rng in each_run(way, kinds, numbers):
        hub.fresh_cache()
        fault, how = plan(hub, rng, kind, PULLS, patience)
        try:
            assert same(load()), (kind, how)
            outcome = "right"
        except (HubError, ArtifactError, StatsError) as error:
            assert told(error), (kind, how, str(error))
            hub.faults.clear()
            assert same(load()), (kind, how)
            outcome = "error"
        hits += len(fault.hits)
        note(f"{way} {outcome if fault.hits else 'not hit'}")
    assert hits


@pytest.fixture
def note(request):
    """Keep an outcome for whoever counts them: `--junit-xml` writes them down."""
    return lambda outcome: request.node.user_properties.append(("outcome", outcome))


@runs(FROM_HUB)
def test_a_pull_brings_the_right_set_or_nothing(hub, kinds, numbers, note, patience):
    push(OLD)
    push(NEW)
    bring(hub, pull, NEW.__eq__, "pull", kinds, numbers, note, patience)


@runs(FROM_HUB)
def test_statistics_come_right_or_not_at_all(hub, kinds, numbers, note, patience, tmp_path):
    right = make_stats(1)
    hub.server.make_repo("ann/set", read_folder(right.save(tmp_path / "stats")))

    def load():
        return Stats.from_pretrained("ann/set")

    bring(
        hub, load, lambda found: same_stats(found, right), "stats", kinds, numbers, note, patience
    )


@runs(KINDS)
def test_a_push_leaves_the_old_set_or_the_new_one(hub, kinds, numbers, note, patience):
    push(NEW)
    repo = hub.repo("ann/set")
    new = repo.files()
    push(OLD)
    old, start = repo.files(), repo.branches["main"]
    hits = 0
    for kind, rng in each_run("push", kinds, numbers):
        repo.branches["main"] = start
        kept = {blob.sha256 for blob in repo.resolve("main").tree.values() if blob.lfs}
        repo.lfs = {oid: data for oid, data in repo.lfs.items() if oid in kept}
        fault, how = plan(hub, rng, kind, PUSHES, patience)
        count = len(repo.pushes)
        try:
            push(NEW)
            assert repo.files() == new, (kind, how)
            outcome = "right"
        except HubError as error:
            assert told(error), (kind, how, str(error))
            outcome = "error"
            if repo.files() != old:
                # The commit is there, and the answer was lost; nobody is told that it is not there.
                assert repo.files() == new and "is not known" in str(error), (kind, how)
                outcome = "error, and the new set is there"
            hub.faults.clear()
            push(NEW)
            assert repo.files() == new, (kind, how)
        assert len(repo.pushes) == count + 1, (kind, how)
        hits += len(fault.hits)
        note(f"push {outcome if fault.hits else 'not hit'}")
    assert hits


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("match", ["GET storage", "GET .*config"])
def test_what_happens_once_on_a_pull_is_not_seen(hub, kind, match):
    push(OLD)
    rng = random.Random(kind)
    for _ in range(3):
        hub.fresh_cache()
        hub.faults.add(match, kind, **KINDS[kind](rng))
        assert pull() == OLD
        hub.faults.clear()


@pytest.mark.parametrize("kind", [*PASSING, "conflict"])
@pytest.mark.parametrize("match", ["POST .*/commit/", "PUT storage"])
def test_what_happens_once_on_a_push_is_not_seen(hub, kind, match):
    push(OLD)
    if (kind, match) == ("conflict", "PUT storage"):
        return  # storage knows no conflicts
    hub.faults.add(match, kind, **KINDS[kind](random.Random(kind)))
    push(NEW)
    hub.fresh_cache()
    assert pull() == NEW and len(hub.repo("ann/set").pushes) == 2


@pytest.mark.parametrize("kind", ["lost_response", "cut_response", "unavailable"])
def test_one_pull_request_is_opened_even_if_the_answer_is_lost(hub, kind):
    push(OLD)
    hub.faults.add("POST .*/commit/", kind, **KINDS[kind](random.Random(kind)))
    assert push(NEW, create_pr=True).pr_url.endswith("/ann/set/discussions/1")
    assert list(hub.repo("ann/set").pulls) == [1] and pull(revision="refs/pr/1") == NEW


def test_the_wait_that_the_hub_asks_for_is_kept(hub):
    push(OLD)
    hub.faults.add("POST .*/commit/", "rate_limit", times=2, retry_after=17)
    push(NEW)
    assert hub.sleeps == [17.0, 17.0]
    hub.sleeps.clear()
    hub.faults.add("POST .*/commit/", "rate_limit", retry_after=1, ratelimit=True)
    hub.faults.add("POST .*/commit/", "unavailable", times=3, retry_after=None)
    push(OLD)
    assert hub.sleeps == [1.0, 2.0, 4.0, 8.0]
    hub.sleeps.clear()
    hub.faults.add("POST .*/commit/", "rate_limit", times=None, retry_after=500)
    with pytest.raises(HubError, match="rate limit.*Wait 500 seconds"):
        push(NEW)
    assert hub.sleeps == []


def test_somebody_elses_push_at_the_same_time(hub):
    """Whoever is second starts again from what is there then; the first one's files stay."""
    push(OLD)
    repo = hub.repo("ann/set")

    def meanwhile(entry):
        if "commit/main" in entry.path and len(repo.pushes) == 1:
            tree = {**repo.resolve("main").tree}
            made = repo.store(tree, (repo.branches["main"],), "Meanwhile", "", "bob")
            repo.move("main", made)
        return False

    hub.faults.add(meanwhile, "drop")
    push(NEW)
    assert [commit.title for commit in repo.pushes][1] == "Meanwhile"
    assert len(repo.pushes) == 3 and pull() == NEW


def test_an_interrupted_push_can_be_repeated(hub):
    def interrupt(entry):
        raise KeyboardInterrupt

    push(OLD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.create_commit", lambda *_a, **_k: interrupt(None))
        with contextlib.suppress(KeyboardInterrupt):
            push(NEW)
    assert pull() == OLD
    push(NEW)
    assert pull() == NEW
