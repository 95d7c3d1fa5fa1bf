"""The Python program that generates what the page shows."""

from __future__ import annotations

from ..hub import hub_name
from .loaded_model import RANDOM, LoadedModel, candidates, for_random_neurons
from .request import GenerationRequest
from .settings import DEMO

_TEMPLATE = """\
import neuronsteer as ns
{imports}from neuronsteer.space.seeded_sampling import SeededSampling
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

MODEL = {model}
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype={dtype!r}).eval()
tok = AutoTokenizer.from_pretrained(MODEL)
neurons = ns.NeuronSet.from_pretrained({neurons!r})
{control}
inputs = tok([{prompt!r}]{times}, return_tensors="pt")
{gate}sampling = SeededSampling({seed}, temperature={temperature:g}, top_p={top_p:g})
with ns.attach(model, {sets}, tokenizer=tok) as steer:
    steer.{act}(
        {target},
    )
    ids = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        logits_processor=LogitsProcessorList([{processors}]),
        {options},
    )
for text in tok.batch_decode(ids, skip_special_tokens=True):
    print(text)
"""
_CONTROL = """
# The control: as many random neurons per label and layer, under their own labels.
random = neurons.random_like(seed={seed})
random = random.relabel({{label: {prefix!r} + label for label in random.labels}})
"""
_GATE = """\
gate = VocabularyGate(tok, {languages!r}, candidates={candidates!r})
"""
_TARGETS = """[
            {steered},
            None,  # unsteered
            {random},
        ]"""


def snippet(loaded: LoadedModel, request: GenerationRequest) -> str:
    """Return a program that prints the texts of all outputs, the steered one first.

    Args:
        loaded: Model and set.
        request: What was requested, with the schedule that was really followed.
    """
    embedded = loaded.model_id == DEMO
    schedule = request.parsed(loaded.neurons)
    steered, random = (
        f"ns.Schedule.parse({str(each)!r})" for each in (schedule, for_random_neurons(schedule))
    )
    languages = [request.keep, *([None, None] if request.controls else [])]
    watched = request.is_watched(loaded.neurons)
    if watched:
        target = [repr(languages)]
    else:
        target = [_TARGETS.format(steered=steered, random=random) if request.controls else steered]
    if request.subtracts_previous and not watched:
        target.append('away_from="previous"')
    if request.steering(loaded.neurons) is not None:
        target.append(f"operation={request.operation!r}")
    if request.strength != 1:
        target.append(f"strength={request.strength:g}")
    options = [f"{name}={value!r}" for name, value in loaded.options(request).items()]
    between = ",\n        "
    imports = ["from neuronsteer.demo import model_folder\n"] if embedded else []
    if request.keep:
        names = "Candidates, VocabularyGate"
        imports.append(f"from neuronsteer.steering.keeping.vocabulary_gate import {names}\n")
    gate = _GATE.format(languages=languages, candidates=candidates(request))
    return _TEMPLATE.format(
        imports="".join(imports),
        gate=gate if request.keep else "",
        act="keep" if watched else "to",
        processors="gate, sampling" if request.keep else "sampling",
        model="model_folder()" if embedded else repr(hub_name(loaded.model_id)),
        dtype=loaded.dtype,
        neurons=loaded.set_id,
        control=_CONTROL.format(seed=request.seed, prefix=RANDOM) if request.controls else "",
        prompt=request.prompt,
        times=" * 3" if request.controls else "",
        seed=request.seed,
        temperature=request.temperature,
        top_p=request.top_p,
        sets="[neurons, random]" if request.controls else "neurons",
        target=between.join(target),
        options=between.join(options),
    )
