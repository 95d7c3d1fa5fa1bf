"""Nobody is steered by somebody else, by what was asked before, or by a pass that broke off."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from transformers import DynamicCache

import neuronsteer as ns
from neuronsteer.errors import HookError, ScheduleError
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

NEW = 16
#: Everything another steerer may be set to while somebody else generates on their own.
OTHERS = {
    "constant": "en",
    "schedule": "en,4:fr",
    "not the prompt": ns.Schedule("en", prompt=False),
    "one per row": ["en", "fr"],
    "strong": ns.Schedule.parse("ja*0.5,3~9:en"),
}


def with_logits(generate, ids, new=NEW, **options):
    """Return the generated tokens and the logits that they were chosen from."""
    found = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return found.sequences[:, ids.shape[1] :], torch.stack(found.logits)


def assert_same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


class Streamer:
    """Calls `action` once, when generated token number `at` has arrived."""

    def __init__(self, at, action):
        self.at, self.action, self.seen = at, action, -1

    def put(self, _value):
        self.seen += 1  # the first call brings the prompt
        if self.seen == self.at:
            self.action()

    def end(self):
        pass


def in_a_thread(action):
    """Run `action` in another thread and return or raise what it did."""
    found = []

    def run():
        try:
            found.append((action(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = found[0]
    if error is not None:
        raise error
    return result


# --- S1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("other", OTHERS)
def test_own_generate_is_not_touched_by_another_public_steerer(family, private, other):
    """S1: `A.generate()` is A's alone, whatever a public steerer beside it is set to."""
    model, ids = tiny_model(family), tiny_ids(2)
    with ns.attach(model, toy_set(model, seed=1), private=private) as mine:
        for target in ("fr", "ja,5:fr", ["fr", None], None):
            mine.to(target)
            wanted = with_logits(mine.generate, ids)
            with ns.attach(model, toy_set(model, seed=2)) as theirs:
                theirs.to(OTHERS[other])
                assert_same(with_logits(mine.generate, ids), wanted)
                # Neither is theirs told that it took part in anything.
                assert theirs.report()["generations"] == 0
                assert not any(layer["calls"] for layer in theirs.report()["layers"])


def test_two_public_steerers_add_up_in_the_models_own_generate_only():
    """S1: isolation is for `steer.generate`; `model.generate` is steered by both."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model, seed=1)) as one:
        one.to("fr")
        alone = with_logits(model.generate, ids)
        with ns.attach(model, toy_set(model, seed=2)) as two:
            two.to("en")
            both = with_logits(model.generate, ids)
            assert not torch.equal(both[1], alone[1])
            with ns.attach(model, [one.sets[0], two.sets[0]]) as third:
                assert_same(with_logits(one.generate, ids), alone)
                third.off()
                assert_same(with_logits(model.generate, ids), both)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("other", OTHERS)
def test_attaching_beside_a_public_steerer_runs_its_probe_alone(family, other):
    """S1: the token that `attach` runs to test its hooks is nobody else's forward pass."""
    model, ids = tiny_model(family), tiny_ids(2)
    with ns.attach(model, toy_set(model, seed=2)) as theirs:
        theirs.to(OTHERS[other])
        wanted, before = with_logits(theirs.generate, ids), theirs.report()
        with ns.attach(model, toy_set(model, seed=1)) as mine:
            assert theirs.report() == before
            mine.to("fr")
            assert_same(with_logits(theirs.generate, ids), wanted)


# --- S2, S3 -----------------------------------------------------------------------------------


@pytest.fixture
def fresh_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_private_steerer_does_not_steer_others_on_a_compiled_model(fresh_graphs):
    """S2: after `torch.compile`, a private steerer takes part in its own `generate` only."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = greedy(model, ids)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    with ns.attach(model, toy_set(model, seed=1), private=True) as mine:
        mine.to("fr")
        steered = mine.generate(ids, **options)[:, ids.shape[1] :]
        assert not torch.equal(steered, plain)
        mine.off()
        model.forward = torch.compile(model.forward, backend="eager")
        assert torch.equal(greedy(model, ids), plain)
        for target in ("fr", "en", "fr"):
            mine.to(target)
            assert torch.equal(greedy(model, ids), plain)
        assert torch.equal(mine.generate(ids, **options)[:, ids.shape[1] :], steered)
        assert torch.equal(greedy(model, ids), plain)
        del model.forward


@pytest.mark.parametrize("target", ["fr", ["fr", "en"]], ids=str)
def test_a_private_steerer_does_not_steer_direct_calls_of_compiled_code(fresh_graphs, target):
    """S2: a compiled model called directly is nobody's own generation either."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1), private=True) as mine:
        plain = model(ids).logits
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(ids).logits, plain)
        mine.to(target)
        mine.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        torch.testing.assert_close(compiled(ids).logits, plain)


def right_or_refused(call, wanted):
    """Run `call`: either its logits are `wanted`, or it says that it cannot follow the target."""
    try:
        found = call()
    except (HookError, ScheduleError) as error:
        assert len(str(error)) > 40
        return
    torch.testing.assert_close(found.logits, wanted)


@pytest.mark.parametrize(
    "target",
    ["-,2:fr", ns.Schedule("fr", prompt=False), ["fr", "ja"], "en,1:ja,prompt=yes"],
    ids=str,
)
def test_a_compiled_model_called_directly_follows_the_schedule_or_refuses(fresh_graphs, target):
    """S3: compiled code never goes on with the label that was in force before."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1)) as steer:
        steer.to(target, prompt_length=5)
        wanted = model(ids).logits
        compiled = torch.compile(model, backend="eager")
        steer.to("ja")
        constant = model(ids).logits
        torch.testing.assert_close(compiled(ids).logits, constant)
        steer.to(target, prompt_length=5)
        right_or_refused(lambda: compiled(ids), wanted)
        # And what it did then does not outlast it.
        steer.to("ja")
        torch.testing.assert_close(compiled(ids).logits, constant)


def test_a_compiled_model_does_not_keep_the_last_row_of_a_generation(fresh_graphs):
    """S3: after a generation under a schedule, a direct call is placed anew or refused."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1)) as steer:
        steer.to("-,2:fr")
        wanted = model(ids).logits
        compiled = torch.compile(model, backend="eager")
        steer.to("en")
        compiled(ids)
        steer.to("-,2:fr")
        greedy(model, ids, new=6)
        right_or_refused(lambda: compiled(ids), wanted)


# --- S4 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("threaded", [False, True], ids=["same thread", "other thread"])
@pytest.mark.parametrize("target", [None, "en", "en,6:fr", ["ja"]], ids=str)
def test_attaching_while_a_generation_runs_does_not_touch_it(family, threaded, target):
    """S4: who takes part in a generation is fixed when it begins."""
    model, ids = tiny_model(family), tiny_ids(1)
    with ns.attach(model, toy_set(model, seed=1)) as first:
        first.to("fr,9:ja")
        wanted = greedy(model, ids, new=NEW)
        added = []

        def join():
            added.append(ns.attach(model, toy_set(model, seed=2)).to(target))

        action = (lambda: in_a_thread(join)) if threaded else join
        assert torch.equal(greedy(model, ids, new=NEW, streamer=Streamer(4, action)), wanted)
        (second,) = added
        assert second.report()["generations"] == 0
        # From the next generation on it takes part.
        together = greedy(model, ids, new=NEW)
        if target is None:
            assert torch.equal(together, wanted)
        else:
            assert second.report()["generations"] == 1
            assert not torch.equal(together, wanted)
        second.detach()
        assert torch.equal(greedy(model, ids, new=NEW), wanted)


@pytest.mark.parametrize("threaded", [False, True], ids=["same thread", "other thread"])
def test_a_steerer_detached_while_a_generation_runs_is_idle_from_the_next_token_on(threaded):
    """S4, control: leaving in mid-generation ends the steering, not the generation."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model, seed=1)) as steer:
        steer.to("fr,5:-,prompt=yes")
        wanted = greedy(model, ids, new=NEW)
    steer = ns.attach(model, toy_set(model, seed=1)).to("fr")
    action = (lambda: in_a_thread(steer.detach)) if threaded else steer.detach
    assert torch.equal(greedy(model, ids, new=NEW, streamer=Streamer(5, action)), wanted)


@pytest.mark.parametrize("first", ["one", "two"])
def test_another_steerer_detached_while_a_generation_runs_leaves_the_rest_steered(first):
    """S4: two take part, one leaves at token 5: the other goes on as planned."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    targets = {"one": "fr,8:ja", "two": "en"}
    sets = {"one": toy_set(model, seed=1), "two": toy_set(model, seed=2)}

    def run(targets, leaver=None):
        steerers = {
            name: ns.attach(model, sets[name]).to(target) for name, target in targets.items()
        }
        streamer = None if leaver is None else Streamer(5, steerers[leaver].detach)
        try:
            return greedy(model, ids, new=NEW, streamer=streamer)
        finally:
            for steerer in steerers.values():
                steerer.detach()

    ended = {"one": "fr,5:-", "two": "en,5:-,prompt=yes"}[first]
    wanted = run({**targets, first: ended})
    assert torch.equal(run(targets, leaver=first), wanted)


# --- S7 ---------------------------------------------------------------------------------------


class Stop(BaseException):
    """Not an `Exception`, like a keyboard interrupt."""


def raising(error):
    def hook(*_args):
        raise error

    return hook


@pytest.mark.parametrize("error", [RuntimeError("broken"), Stop()], ids=["error", "interrupt"])
@pytest.mark.parametrize("where", ["lm_head", "model.layers.1.mlp.down_proj"])
@pytest.mark.parametrize("how", ["direct", "generate", "own generate"])
@pytest.mark.parametrize("target", ["fr", "fr,3:en", ["fr"]], ids=str)
def test_nothing_of_a_forward_pass_that_broke_off_is_left(error, where, how, target):
    """S7: after an exception and `off()`, the decoder called directly is not steered."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1)) as steer:
        plain = model.model(ids).last_hidden_state
        steer.to(target)
        handle = model.get_submodule(where).register_forward_pre_hook(raising(error))
        calls = {"direct": model, "own generate": steer.generate, "generate": model.generate}
        with pytest.raises(type(error)):
            calls[how](ids)
        handle.remove()
        steer.off()
        for _ in range(2):
            assert torch.equal(model.model(ids).last_hidden_state, plain)


def test_a_schedule_is_refused_by_the_decoder_also_after_an_exception():
    """S7: what is left of a broken pass does not pass for a plan of the next one."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1)) as steer:
        steer.to("en,4:fr")
        handle = model.lm_head.register_forward_pre_hook(raising(RuntimeError("broken")))
        with pytest.raises(RuntimeError, match="broken"):
            model(ids)
        handle.remove()
        with pytest.raises(HookError, match="called directly"):
            model.model(ids)


def test_a_generation_that_broke_off_is_not_continued_by_the_next():
    """S7: generations and direct calls after an exception equal those without one."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), ns.attach(model, toy_set(model, seed=1)) as steer:
        for target in ("fr", "en,4:fr", ["fr", "ja,3:en"]):
            steer.to(target)
            wanted = with_logits(model.generate, ids)
            direct = model(ids).logits

            def broken():
                raise RuntimeError("broken")

            with pytest.raises(RuntimeError, match="broken"):
                greedy(model, ids[:1] if target == "fr" else ids, streamer=Streamer(0, broken))
            handle = model.model.norm.register_forward_pre_hook(raising(RuntimeError("broken")))
            with pytest.raises(RuntimeError, match="broken"):
                greedy(model, ids)
            handle.remove()
            assert torch.equal(model(ids).logits, direct)
            assert_same(with_logits(model.generate, ids), wanted)


# --- S8 ---------------------------------------------------------------------------------------


def custom_loops(model, prompts, new=8):
    """Greedy decoding of several prompts, one token each in turn, every one with its own cache."""
    caches = [DynamicCache(config=model.config) for _ in prompts]
    steps, logits = list(prompts), [[] for _ in prompts]
    for _ in range(new):
        for i, cache in enumerate(caches):
            logits[i].append(model(steps[i], past_key_values=cache).logits[:, -1])
            steps[i] = logits[i][-1].argmax(-1, keepdim=True)
    return [torch.stack(each) for each in logits]


@pytest.mark.parametrize("target", ["-,2:fr", "en,4:fr,6:ja", ns.Schedule("fr", prompt=False)])
@pytest.mark.parametrize("lengths", [(7, 20), (20, 7), (7, 7), (7, 1, 30)], ids=str)
def test_interleaved_direct_loops_do_not_share_where_the_prompt_ended(target, lengths):
    """S8: each direct loop is placed by its own cache, not by a number in the steerer."""
    model = tiny_model("llama")
    prompts = [tiny_ids(1, length, seed=i) for i, length in enumerate(lengths)]
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        alone = [custom_loops(model, [prompt])[0] for prompt in prompts]
        assert_same(custom_loops(model, prompts), alone)
        steer.off()
        assert not torch.equal(custom_loops(model, prompts[:1])[0], alone[0])


def test_a_direct_loop_goes_on_after_a_generation_or_a_call_without_a_cache():
    """S8: other calls in between do not move where a cache's prompt ended."""
    model, ids = tiny_model("llama"), tiny_ids(1)

    def loop(between):
        cache, step, logits = DynamicCache(config=model.config), ids, []
        for _ in range(8):
            logits.append(model(step, past_key_values=cache).logits[:, -1])
            step = logits[-1].argmax(-1, keepdim=True)
            between()
        return torch.stack(logits)

    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to("-,2:fr")
        wanted = loop(lambda: None)
        longer = tiny_ids(1, 19, seed=4)
        assert torch.equal(loop(lambda: model(longer, use_cache=False)), wanted)
        assert torch.equal(loop(lambda: model(longer)), wanted)
        assert torch.equal(loop(lambda: greedy(model, longer, new=2)), wanted)


def test_direct_loops_in_two_threads_do_not_share_where_the_prompt_ended():
    """S8: two threads with a cache each, in lockstep."""
    model = tiny_model("llama")
    prompts = [tiny_ids(1, 7, seed=1), tiny_ids(1, 20, seed=2)]
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to("-,2:fr")
        alone = [custom_loops(model, [prompt])[0] for prompt in prompts]
        turn, found = threading.Barrier(2, timeout=60), [None, None]

        def run(i):
            with torch.no_grad():
                cache, step, logits = DynamicCache(config=model.config), prompts[i], []
                for _ in range(8):
                    turn.wait()
                    logits.append(model(step, past_key_values=cache).logits[:, -1])
                    step = logits[-1].argmax(-1, keepdim=True)
                found[i] = torch.stack(logits)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_same(found, alone)


def test_a_cache_that_is_copied_is_still_placed():
    """S8, control: a loop may continue on a copy of its cache if the prompt's length is told."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to("-,2:fr", prompt_length=ids.shape[1])
        wanted = custom_loops(model, [ids])[0]
        cache, step, logits = DynamicCache(config=model.config), ids, []
        for _ in range(8):
            logits.append(model(step, past_key_values=cache).logits[:, -1])
            step, cache = logits[-1].argmax(-1, keepdim=True), copy.deepcopy(cache)
        assert torch.equal(torch.stack(logits), wanted)


# --- S12 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["en,4:fr", "-,2:fr,7:ja", ["en,3:fr", "ja"]], ids=str)
def test_guidance_without_a_cache_equals_guidance_with_one(target):
    """S12: the second forward pass of guidance is about the same token as the first."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        cached = with_logits(model.generate, ids, guidance_scale=1.5)
        found = with_logits(model.generate, ids, guidance_scale=1.5, use_cache=False)
        assert torch.equal(found[0], cached[0])
        unguided = with_logits(model.generate, ids)
        assert not torch.equal(unguided[0], cached[0])


def test_guidance_equals_its_formula_position_by_position():
    """S12: both passes of guidance follow the schedule, with and without a cache."""
    model, ids, scale = tiny_model("llama"), tiny_ids(1), 1.5
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        sequence = ids
        for _ in range(10):  # each token from two teacher-forced passes over what there is
            scores = []
            for start in (0, ids.shape[1] - 1):
                steer.to("en,4:fr", prompt_length=ids.shape[1] - start)
                logits = model(sequence[:, start:], use_cache=False).logits[:, -1]
                scores.append(torch.log_softmax(logits, dim=-1))
            score = scale * (scores[0] - scores[1]) + scores[1]
            sequence = torch.cat([sequence, score.argmax(-1, keepdim=True)], 1)
        wanted = sequence[:, ids.shape[1] :]
        steer.to("en,4:fr")
        for cached in (True, False):
            found = greedy(model, ids, new=10, guidance_scale=scale, use_cache=cached)
            assert torch.equal(found, wanted), f"use_cache={cached}"


@pytest.mark.parametrize("target", ["en,4:fr", "-,2:fr,7:ja", ["en,3:fr", "ja"]], ids=str)
def test_generate_of_the_class_without_a_cache_equals_that_with_one_or_is_refused(target):
    """S12: `type(model).generate(model, …)` goes past the wrapper of this one model."""
    model, ids = tiny_model("llama"), tiny_ids(2)

    def unbound(ids, **options):
        return type(model).generate(model, ids, **options)

    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        wanted = with_logits(model.generate, ids)
        assert torch.equal(with_logits(unbound, ids)[0], wanted[0])
        try:
            found = with_logits(unbound, ids, use_cache=False)
        except (HookError, ScheduleError) as error:
            assert len(str(error)) > 40
        else:
            assert torch.equal(found[0], wanted[0])


# --- S15 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(3,), (2, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("target", ["fr", "en,4:fr"])
def test_early_exit_drafts_may_end_before_the_first_steered_layer(layers, target):
    """S15: a draft that leaves after two layers is not "unsteered", it never got there."""
    model, ids = tiny_model("llama", layers=4), tiny_ids(1)
    neurons = toy_set(model, labels=("en", "fr"))
    keep = torch.isin(neurons.layer, torch.tensor(layers))
    columns = {name: column[keep] for name, column in neurons.values.items()}
    late = ns.NeuronSet.from_rows(
        neurons.labels,
        neurons.label[keep],
        neurons.layer[keep],
        neurons.index[keep],
        values=columns,
        site=neurons.site,
        num_layers=neurons.num_layers,
        width=neurons.width,
        operation=neurons.operation,
    )
    plain = greedy(model, ids)
    with ns.attach(model, late) as steer:
        steer.to(target)
        wanted = greedy(model, ids)
        assert not torch.equal(wanted, plain)
        assert torch.equal(greedy(model, ids, assistant_early_exit=2), wanted)
        assert model.config.num_hidden_layers == 4


# --- generations inside generations -------------------------------------------------------------


@pytest.mark.parametrize("target", ["fr", "en,4:fr", ["ja"]], ids=str)
def test_a_generation_inside_another_one_is_one_of_its_own(target):
    """S1: a streamer may ask the same model about something else, steered otherwise."""
    model, ids, other = tiny_model("llama"), tiny_ids(1), tiny_ids(1, 12, seed=9)
    with (
        ns.attach(model, toy_set(model, seed=1)) as one,
        ns.attach(model, toy_set(model, seed=2), private=True) as two,
    ):
        one.to(target)
        two.to("en,2:ja")
        wanted = greedy(model, ids, new=NEW)
        inner = with_logits(two.generate, other, new=6)
        plain_inner = greedy(model, other, new=6)
        found = []

        def ask():
            found.append(with_logits(two.generate, other, new=6))
            found.append(greedy(model, other, new=6))

        assert torch.equal(greedy(model, ids, new=NEW, streamer=Streamer(5, ask)), wanted)
        assert_same(found[0], inner)
        assert torch.equal(found[1], plain_inner)


def test_a_loop_of_ones_own_inside_generate_is_placed_by_its_cache():
    """S8: `generate(custom_generate=…)` prepares nothing, so that its cache has to tell."""
    model, ids = tiny_model("llama"), tiny_ids(1)

    def loop(model, input_ids, generation_config=None, **_options):
        cache, step = DynamicCache(config=model.config), input_ids
        for _ in range(10):
            step = model(step, past_key_values=cache).logits[:, -1].argmax(-1, keepdim=True)
            input_ids = torch.cat([input_ids, step], 1)
        return input_ids

    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        for target in ("-,2:fr", ["-,2:fr"], "fr"):
            steer.to(target)
            wanted = greedy(model, ids, new=10)
            assert torch.equal(greedy(model, ids, new=10, custom_generate=loop), wanted)


def test_a_cache_that_is_passed_by_position_is_found():
    """S8: `model(ids, None, None, cache)` is the same call as with the keyword."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to("-,2:fr")
        wanted = custom_loops(model, [ids])[0]
        cache, step, logits = DynamicCache(config=model.config), ids, []
        for _ in range(8):
            logits.append(model(step, None, None, cache).logits[:, -1])
            step = logits[-1].argmax(-1, keepdim=True)
        assert torch.equal(torch.stack(logits), wanted)


def test_a_compiled_generation_is_not_disturbed_by_other_threads(fresh_graphs):
    """S2: only the generation that runs compiled code writes what compiled code reads."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with (
        ns.attach(model, toy_set(model, seed=1), private=True) as mine,
        ns.attach(model, toy_set(model, seed=2)) as theirs,
    ):
        mine.to("fr")
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False}
        options["max_new_tokens"] = NEW
        wanted = mine.generate(ids, **options)
        model.forward = torch.compile(model.forward, backend="eager")
        assert torch.equal(mine.generate(ids, **options), wanted)

        def disturb():
            theirs.to("en")
            with torch.no_grad():
                type(model).forward(model, ids)  # and not through the compiled code
            ns.attach(model, toy_set(model, seed=3), probe=False).detach()
            theirs.off()

        streamer = Streamer(4, lambda: in_a_thread(disturb))
        assert torch.equal(mine.generate(ids, streamer=streamer, **options), wanted)
        del model.forward


def test_compiled_generations_in_two_threads_equal_their_solo_runs(fresh_graphs):
    """S2: also before anything was traced, they run one after another."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8}
    with (
        ns.attach(model, toy_set(model, seed=1), private=True) as one,
        ns.attach(model, toy_set(model, seed=2), private=True) as two,
    ):
        one.to("fr"), two.to("en,3:ja")
        wanted = [one.generate(ids, **options), two.generate(ids, **options)]
        model.forward = torch.compile(model.forward, backend="eager")
        found = [None, None]

        def run(i, steer):
            found[i] = steer.generate(ids, **options)

        threads = [threading.Thread(target=run, args=each) for each in enumerate((one, two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_same(found, wanted)
        del model.forward
