"""The Python program that gives what is on the screen."""

from __future__ import annotations

from .loaded_model import RANDOM, Pair, mirrored
from .request import Order
from .settings import DEMO

_TEMPLATE = """\
import neuronsteer as ns
{imports}from neuronsteer.space import Seeded  # sampling with random numbers of its own
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

MODEL = {model}
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype={dtype!r}).eval()
tok = AutoTokenizer.from_pretrained(MODEL)
neurons = ns.NeuronSet.from_pretrained({neurons!r})
{control}
inputs = tok([{prompt!r}]{times}, return_tensors="pt")
sampling = Seeded({seed}, temperature={temperature:g}, top_p={top_p:g})
with ns.attach(model, {sets}, tokenizer=tok) as steer:
    steer.to(
        {target},
    )
    ids = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        logits_processor=LogitsProcessorList([sampling]),
        {options},
    )
for text in tok.batch_decode(ids, skip_special_tokens=True):
    print(text)
"""
_CONTROL = """
# The control: as many random neurons per label and layer, under labels of their own.
random = neurons.random_like(seed={seed})
random = random.relabel({{label: {prefix!r} + label for label in random.labels}})
"""
_TARGETS = """[
            {steered},
            None,  # unsteered
            {random},
        ]"""


def snippet(pair: Pair, order: Order) -> str:
    """Return a program that prints the texts of all lanes, the steered one first.

    Args:
        pair: Model and set.
        order: What was asked, with the schedule that was really followed.
    """
    embedded = pair.model_id == DEMO
    schedule = order.parsed(pair.neurons)
    steered, random = (
        f"ns.Schedule.parse({str(each)!r})" for each in (schedule, mirrored(schedule))
    )
    target = [_TARGETS.format(steered=steered, random=random) if order.controls else steered]
    if order.leaves:
        target.append('away_from="previous"')
    if order.steering(pair.neurons) is not None:
        target.append(f"operation={order.operation!r}")
    if order.strength != 1:
        target.append(f"strength={order.strength:g}")
    options = [f"{name}={value!r}" for name, value in pair.options(order).items()]
    between = ",\n        "
    return _TEMPLATE.format(
        imports="from neuronsteer.demo import model_folder\n" if embedded else "",
        model="model_folder()" if embedded else repr(pair.model_id),
        dtype=pair.dtype,
        neurons=pair.set_id,
        control=_CONTROL.format(seed=order.seed, prefix=RANDOM) if order.controls else "",
        prompt=order.prompt,
        times=" * 3" if order.controls else "",
        seed=order.seed,
        temperature=order.temperature,
        top_p=order.top_p,
        sets="[neurons, random]" if order.controls else "neurons",
        target=between.join(target),
        options=between.join(options),
    )
