"""Many users of one model at once: everyone gets, token for token, what they get alone.

`NEURONSTEER_STRESS_SECONDS` says how long the random part goes on, all tests of it together
(default: 4). What is expected of each generation is worked out before any thread starts, and
nobody changes what a steerer does while that steerer generates, so no run can fail by chance.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import neuronsteer as ns
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

SECONDS = float(os.environ.get("NEURONSTEER_STRESS_SECONDS", "4"))
FAMILIES = ("llama", "mixtral")
#: Users that generate, others that attach and detach, and one that generates plainly.
USERS, OTHERS = 4, 2


@pytest.fixture(autouse=True)
def _threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def own(steer, ids, new=10, **options):
    """Return what this steerer alone makes of `ids`: the generated tokens only."""
    mask = torch.ones_like(ids)
    found = steer.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, **options)
    return found[:, ids.shape[1] :]


def together(*jobs):
    """Run every job in a thread of its own; all are stopped by, and the test gets, any error.

    A job is called with an event that is set as soon as another job has failed.
    """
    failed = threading.Event()

    def run(job):
        try:
            return job(failed)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(run, job) for job in jobs]
    return [future.result() for future in futures]


# --- S5 ---------------------------------------------------------------------------------------


def ahead(label, number):
    """Return a schedule that is `label` now, and needs two states never seen before later on."""
    strength, token = 1 / (2 + number), 10_000 + number
    return ns.Schedule.parse(f"{label},{token}:ja*{strength},{token + 1}:en*{strength},prompt=yes")


@pytest.mark.parametrize("family", FAMILIES)
def test_new_states_do_not_disturb_a_generation_that_runs(family):
    """S5: tables that grow in one thread are whole in every other one, all the time."""
    model, ids = tiny_model(family), tiny_ids(1)
    with ns.attach(model, toy_set(model), private=True) as steer:
        steer.to("fr")
        wanted = own(steer, ids, new=120)
    with ns.attach(model, toy_set(model), private=True) as steer:
        steer.to("fr")
        done = threading.Event()

        def generate(_failed):
            try:
                for _ in range(2):
                    assert torch.equal(own(steer, ids, new=120), wanted)
            finally:
                done.set()

        def define(failed):
            for number in itertools.count():
                if done.is_set() or failed.is_set():
                    return
                # The label in force stays the same; only states of later tokens are new.
                steer.to(ahead("fr", number))

        together(generate, define)


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_that_grow_are_whole_for_labels_per_row(family):
    """S5: rows of a batch with labels of their own are read from the tables that grow."""
    model, ids = tiny_model(family), tiny_ids(2)

    def many(label, count):
        later = [f"{10_000 + i}:ja*{1 / (2 + i)}" for i in range(count)]
        return ns.Schedule.parse(",".join([label, *later, "prompt=yes"]))

    with ns.attach(model, toy_set(model), private=True) as steer:
        steer.to(["fr", "en"])
        wanted = own(steer, ids, new=60)
    for _ in range(3):  # tables grow once or twice in the life of a steerer
        with ns.attach(model, toy_set(model), private=True) as steer:
            steer.to(["fr", "en"])
            done = threading.Event()

            def generate(_failed, steer=steer, done=done):
                try:
                    assert torch.equal(own(steer, ids, new=60), wanted)
                finally:
                    done.set()

            def define(failed, steer=steer, done=done):
                for count in itertools.count(1, 4):
                    if done.is_set() or failed.is_set():
                        return
                    steer.to([many("fr", count), many("en", count)])

            together(generate, define)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_defined_while_the_first_forward_pass_builds_its_tables(family):
    """S5: a table is built from the rows there are, however many are added meanwhile."""
    model, ids = tiny_model(family), tiny_ids(1)
    neurons = toy_set(model, labels=("en", "fr", "ja", "de", "es", "it"))
    wanted = None
    for number in range(12):
        with ns.attach(model, neurons, private=True, probe=False) as steer:
            steer.to("fr")
            if wanted is None:
                wanted = own(steer, ids, new=3)
                continue
            start = threading.Barrier(2, timeout=60)

            def generate(_failed, steer=steer, start=start):
                start.wait()
                return own(steer, ids, new=3)

            def define(_failed, steer=steer, start=start, number=number):
                start.wait()
                for i in range(30):
                    steer.to(ahead("fr", 100 * number + i))

            found, _ = together(generate, define)
            assert torch.equal(found, wanted)


def test_visitors_with_new_labels_and_strengths_equal_their_solo_runs():
    """S5: every visitor's strengths are new to a steerer that they share in turn."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    neurons = toy_set(model, operation={"name": "add", "value": "mean"})
    strengths = [0.1 + i / 97 for i in range(24)]
    with ns.attach(model, neurons, private=True) as steer:
        wanted = [own(steer.to("fr", strength=s), ids, new=4) for s in strengths]
    with ns.attach(model, neurons, private=True) as steer:
        turn = threading.Lock()

        def visitor(mine):
            def run(failed):
                for i in mine:
                    if failed.is_set():
                        return
                    with turn:
                        steer.to("fr", strength=strengths[i])
                        assert torch.equal(own(steer, ids, new=4), wanted[i])

            return run

        together(*(visitor(range(k, len(strengths), 4)) for k in range(4)))


# --- S6 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_visitors_of_a_mixture_of_experts_come_and_go(family):
    """S6: attaching to a block of experts does not touch a forward pass that is inside it."""
    model, ids = tiny_model(family), tiny_ids(1)
    implementation = model.config._experts_implementation
    neurons = toy_set(model, per_layer=20)
    plain = greedy(model, ids, new=3)
    targets = ["fr", "en", "ja,1:fr", None]

    def visit(target):
        with ns.attach(model, neurons, private=True, probe=False) as steer:
            return own(steer.to(target), ids, new=3)

    wanted = [visit(target) for target in targets]

    def visitor(target, expected):
        def run(failed):
            for _ in range(12):
                if failed.is_set():
                    return
                assert torch.equal(visit(target), expected)

        return run

    together(*(visitor(*each) for each in zip(targets, wanted, strict=True)))
    assert model.config._experts_implementation == implementation
    assert torch.equal(greedy(model, ids, new=3), plain)


# --- all of it, at random -----------------------------------------------------------------------


class Plan:
    """One generation of one user: prompts, a target, how strong, and what comes out alone."""

    def __init__(self, rng):
        self.batch = rng.choice((1, 1, 2, 3))
        self.ids = tiny_ids(self.batch, rng.choice((3, 7, 11)), seed=rng.randrange(1000))
        self.strength = rng.choice((1.0, 0.5, 0.25))
        self.options = rng.choice(({}, {}, {"use_cache": False}, {"num_beams": 2}))
        self.target = rng.choice(
            [
                "fr",
                "en",
                "ja",
                None,
                "fr - en",
                "en,3:fr,6:ja",
                "2~7:fr",
                "ja,2:-,4:en,repeat=6",
                ns.Schedule("ja", prompt=False),
                [rng.choice(("fr", "en,3:ja", None, "ja*0.5")) for _ in range(self.batch)],
            ]
        )
        self.wanted = None

    def prepare(self, steer):
        steer.to(self.target, strength=self.strength)

    def run(self, steer):
        return own(steer, self.ids, new=8, **self.options)

    def check(self, found):
        assert torch.equal(found, self.wanted), (
            f"{self.target!r} at {self.strength} with {self.options}: alone "
            f"{self.wanted.tolist()}, together with others {found.tolist()}"
        )


def plans_of(model, neurons, seed, count=10):
    """Return plans with what each of them gives on a model that nobody else uses."""
    rng = random.Random(seed)
    plans = [Plan(rng) for _ in range(count)]
    with ns.attach(model, neurons, private=True) as steer:
        for plan in plans:
            plan.prepare(steer)
            plan.wanted = plan.run(steer)
    return plans


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("others", ["private", "public"])
def test_users_of_one_model_equal_their_solo_runs(family, others):
    """S5, S6: users with labels, strengths and schedules of their own do not meet."""
    model = tiny_model(family)
    plain_ids = tiny_ids(2)
    plain = greedy(model, plain_ids, new=8)
    sets = [toy_set(model, seed=i) for i in range(USERS)]
    plans = [plans_of(model, neurons, seed) for seed, neurons in enumerate(sets)]
    end = time.monotonic() + SECONDS / 4

    def until_the_end(failed, seed):
        rng = random.Random(seed)
        yield rng
        while time.monotonic() < end and not failed.is_set():
            yield rng

    def user(number):
        def run(failed):
            steer, left = None, 0
            rounds = 0
            with ThreadPoolExecutor(1) as helper:
                for rng in until_the_end(failed, number):
                    if left == 0:  # some stay for a while, some come anew each time
                        if steer is not None:
                            steer.detach()
                        steer = ns.attach(
                            model, sets[number], private=True, probe=rng.random() < 0.5
                        )
                        left = rng.choice((1, 2, 6))
                    left -= 1
                    plan = rng.choice(plans[number])
                    # Sometimes it is another thread that calls to(), before the generation begins.
                    if rng.random() < 0.5:
                        helper.submit(plan.prepare, steer).result()
                    else:
                        plan.prepare(steer)
                    plan.check(plan.run(steer))
                    rounds += 1
            steer.detach()
            return rounds

        return run

    def other(number):
        def run(failed):
            steerers = []
            for rng in until_the_end(failed, 100 + number):
                what = rng.random()
                if what < 0.4 or not steerers:
                    private = others == "private" or rng.random() < 0.5
                    neurons = rng.choice(sets)
                    steerers.append(ns.attach(model, neurons, private=private, probe=False))
                if what < 0.8:
                    target = rng.choice(("en", "fr", "ja,4:en", None, ["fr", "ja"]))
                    rng.choice(steerers).to(target, strength=rng.choice((1.0, rng.random())))
                if what > 0.7 or len(steerers) > 4:
                    steerers.pop(rng.randrange(len(steerers))).detach()
            for steer in steerers:
                steer.detach()

        return run

    def bystander(failed):
        if others == "public":
            return  # then the model's own generate is meant to be steered
        for _ in until_the_end(failed, 200):
            found = greedy(model, plain_ids, new=8)
            assert torch.equal(found, plain), "a private steerer steered model.generate"

    counts = together(
        *(user(number) for number in range(USERS)),
        *(other(number) for number in range(OTHERS)),
        bystander,
    )
    assert all(counts[:USERS])
    assert torch.equal(greedy(model, plain_ids, new=8), plain)
    for neurons, mine in zip(sets, plans, strict=True):
        with ns.attach(model, neurons, private=True) as steer:
            for plan in mine:
                plan.prepare(steer)
                plan.check(plan.run(steer))
