"""Do the neurons of a set know what a text is written in, soon enough and without false alarms?

    python benchmarks/language_sensor.py gemma
    python benchmarks/language_sensor.py qwen --set runs/ready_made/qwen/set --choose

prompts   of so many prompts that nothing was made of, how many are read right by what `steer.to`
          reads them with; of a chat model also with the template counted in, for comparison
windows   windows of twenty tokens of text in one language, in which `steer.keep` would act: false
          alarms, although foreign names and quotations in the texts are among them
code      the same for text with a block of code or a line of numbers and addresses in it
changes   texts that go on in another language: noticed within eight tokens?

`--choose` tries other bounds on the first half of the texts; the table is of the second half.
Texts come from --data, else $NEURONSTEER_DATA, else ../shared/data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import Tensor

import neuronsteer as ns
from neuronsteer.evaluation.bootstrap import wilson
from neuronsteer.evaluation.continuations import encode_prompt
from neuronsteer.evaluation.readers import beginning
from neuronsteer.languages import unspaced
from neuronsteer.steering.keeping.language_sensor import BOUND, SLACK, LanguageSensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from ready_made_sets import SETS, loaded  # noqa: E402
from ready_made_texts import LANGUAGES, lines, questions  # noqa: E402

WINDOW, LENGTH, BEFORE, WITHIN = 20, 64, 24, 8
SLACKS, BOUNDS = (0.02, 0.04, 0.06), (0.1, 0.15, 0.2, 0.3)
TECHNICAL = (
    "\n```python\nfor line in open(path):\n    total += int(line)\n```\n",
    " https://example.org/documents/2024/annual-report.html (12.5 %, 3,400 kg) ",
)


@dataclass(frozen=True)
class Read:
    """A text whose language is `kept`, with what the neurons look like at every token."""

    kept: str
    ids: list[int]
    likeness: Tensor


class Texts:
    """The held-out text of one model's tokenizer, read once."""

    def __init__(self, name: str, neurons: ns.NeuronSet, options: argparse.Namespace) -> None:
        self.model, self.tokenizer = loaded(name)
        self.steer = ns.attach(self.model, neurons, tokenizer=self.tokenizer)
        self.chat = bool(self.tokenizer.chat_template)
        self.data, self.count = options.data, options.texts
        self.labels = [label for label in LANGUAGES if label in neurons.means_of]
        bos = self.tokenizer.bos_token_id
        self.bos = [] if bos is None or self.chat else [bos]
        draw = random.Random(0)
        self.written = {label: self._joined(label, draw) for label in self.labels}

    def _joined(self, label: str, draw: random.Random) -> list[list[int]]:
        """Return texts of at least `LENGTH` tokens, several sentences of one language each."""
        some = lines(self.data / "heldout" / f"{label}.txt.xz")
        draw.shuffle(some)
        found: list[list[int]] = []
        text, space = "", "" if unspaced(label) else " "
        for line in some:
            text += line + space
            ids = self._ids(text)
            if len(ids) >= LENGTH:
                found.append(ids)
                text = ""
            if len(found) == 2 * self.count:
                break
        return found

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def read(self, rows: Iterable[tuple[str, list[int]]]) -> Iterator[Read]:
        """Return texts with what the neurons look like in them."""
        for some in batched(rows, 32):
            length = min(len(ids) for _, ids in some)
            ids = torch.tensor([self.bos + ids[:length] for _, ids in some])
            _, found = self.steer.likeness(ids)
            for (label, tokens), likeness in zip(some, found, strict=True):
                yield Read(label, tokens[:length], likeness[len(self.bos) :])

    def prompts(self) -> dict[str, Any]:
        """Return how many prompts are read right."""
        right: dict[str, list[bool]] = {"read": [], "with the template": []}
        ends = self.model.generation_config.eos_token_id
        for label in self.labels:
            if self.chat:
                some = questions(self.data, label, "test")[:8]
            else:
                written = lines(self.data / "heldout" / f"{label}.txt.xz")[2::4]
                some = [each for each in (beginning(t, label) for t in written) if each][:8]
            for text in some:
                ids = torch.tensor([encode_prompt(self.tokenizer, text, self.chat)])
                for name, known in (("read", ends), ("with the template", None)):
                    if self.chat or name == "read":
                        self.model.generation_config.eos_token_id = known
                        right[name].append(self._language(ids) == label)
        self.model.generation_config.eos_token_id = ends
        return {name: share(hits) for name, hits in right.items() if hits}

    def _language(self, ids: Tensor) -> str | None:
        self.steer.to(self.labels[0])
        self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1)
        return self.steer._state.last.languages[0]


def batched(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Return the rows, so many at a time."""
    left = iter(rows)
    while some := list(itertools.islice(left, size)):
        yield some


def share(hits: list[bool]) -> dict[str, Any]:
    """Return a share with Wilson's 95 % interval."""
    mean = sum(hits) / len(hits)
    return {"share": mean, "interval": wilson(mean, len(hits)), "n": len(hits)}


def alarms(sensor: LanguageSensor, text: Read) -> list[int]:
    """Return after which tokens a text would be steered back."""
    watch, found = sensor.start([], text.kept), []
    for at, (token, likeness) in enumerate(zip(text.ids, text.likeness, strict=True)):
        watch = sensor.after(watch, token, likeness, text.kept)
        if watch.pulled == sensor.hold:
            found.append(at)
    return found


def false_alarms(sensor: LanguageSensor, texts: Iterable[Read]) -> dict[str, Any]:
    """Return the share of windows in which the sensor acts; the first tokens have no context."""
    hits: list[bool] = []
    for text in texts:
        found = alarms(sensor, text)
        for start in range(4, len(text.ids) - WINDOW + 1, WINDOW):
            hits.append(any(start <= at < start + WINDOW for at in found))
    return share(hits)


def noticed(sensor: LanguageSensor, texts: Iterable[Read]) -> dict[str, Any]:
    """Return how many changes of language are noticed in time, and after how many tokens."""
    after: list[int] = []
    for text in texts:
        later = [at - BEFORE + 1 for at in alarms(sensor, text) if at >= BEFORE]
        after.append(later[0] if later else 99)
    hits = [tokens <= WITHIN for tokens in after]
    return share(hits) | {"median tokens": statistics.median(after)}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("model")
    parser.add_argument("--set", help="default: the dense set of model_cards/")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--texts", type=int, default=16, help="per language and half")
    parser.add_argument("--choose", action="store_true", help="try other bounds first")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    neurons = ns.NeuronSet.from_pretrained(options.set or SETS[options.model]["dense"])
    texts = Texts(options.model, neurons, options)
    own = [(label, ids) for label, some in texts.written.items() for ids in some]
    draw, changed = random.Random(1), []
    for left, to in itertools.permutations(texts.labels, 2):
        for half in range(2):
            some, other = texts.written[left][half::2], texts.written[to][half::2]
            ids = draw.choice(some)[:BEFORE] + draw.choice(other)[: LENGTH - BEFORE]
            changed.append((left, ids))
    technical = [
        (label, (ids[:12] + texts._ids(part) + ids[12:])[:LENGTH])
        for label, some in texts.written.items()
        # Either kind is in both halves.
        for k, ids in enumerate(some)
        for part in (TECHNICAL[k // 2 % 2],)
    ]
    read = {
        name: list(texts.read(rows))
        for name, rows in (("windows", own), ("code", technical), ("changes", changed))
    }
    tokenizer, reader = texts.tokenizer, texts.steer._state.reader
    tried = []
    for slack, bound in itertools.product(SLACKS, BOUNDS) if options.choose else ():
        sensor = LanguageSensor(reader, tokenizer, slack=slack, bound=bound)
        false = false_alarms(sensor, read["windows"][0::2])["share"]
        seen = noticed(sensor, read["changes"][0::2])["share"]
        tried.append({"slack": slack, "bound": bound, "false alarms": false, "noticed": seen})
        print(json.dumps(tried[-1]), file=sys.stderr, flush=True)
    sensor = LanguageSensor(reader, tokenizer)
    result = {
        "model": options.model,
        "set": neurons.fingerprint,
        "prompts": texts.prompts(),
        "slack": SLACK,
        "bound": BOUND,
        "windows": false_alarms(sensor, read["windows"][1::2]),
        "code": false_alarms(sensor, read["code"][1::2]),
        "changes": noticed(sensor, read["changes"][1::2]),
        "tried": tried,
    }
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
