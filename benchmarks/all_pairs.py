"""Which sets, layers and strengths bring a real model from any of twelve languages to any other?

    python benchmarks/all_pairs.py gemma dimensions:rate=.99,massive=5,layers=all*.1 \
        effect:rate=.05,source=any,layers=0-5,share=.3,factor=.4*1
    python benchmarks/all_pairs.py qwen 'effect:layers=4;6;8*.5' --prompts 2

A setting is a method with its arguments and a strength. Each is tried on all 132 pairs, with
`--prompts` development prompts per language, on a model that is left the tokens of these languages
only. Statistics are those of `tools/ready_made_sets.py`. A line per setting:

success    texts that are identified as the target language
worst      the label with the least success
distinct   distinct n-grams relative to natural text, as `ns.tune` measures them
natural    texts in the language, as likely and as little repetitive as natural text
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

from short_vocabulary import shorten

import neuronsteer as ns
from neuronsteer.evaluation.candidates import identifier_among
from neuronsteer.evaluation.experiments._saved_cases import SavedCases
from neuronsteer.evaluation.readers import beginning, thinned
from neuronsteer.evaluation.tuning.budget import Budget
from neuronsteer.evaluation.tuning.measurements import (
    Measurements,
    Prompt,
    Setting,
    TuningSettings,
)
from neuronsteer.languages import same

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from ready_made_sets import loaded  # noqa: E402
from ready_made_texts import LANGUAGES, lines, questions, texts_of  # noqa: E402


def parsed(text: str) -> tuple[str, dict[str, Any], float]:
    """Return method, arguments and strength of `method:name=value,…*strength`."""
    rest, _, strength = text.partition("*")
    method, _, given = rest.partition(":")
    arguments: dict[str, Any] = {}
    for pair in filter(None, given.split(",")):
        name, _, value = pair.partition("=")
        # "0;2;4" is a list of layers; a comma separates arguments.
        value = value.replace(";", ",")
        try:
            arguments[name] = json.loads(value if value[:1] != "." else f"0{value}")
        except ValueError:
            arguments[name] = value
        if name == "layers" and "," in value:
            arguments[name] = [int(each) for each in value.split(",")]
    return method, arguments, float(strength or 1)


def prompts_of(chat: bool, options: argparse.Namespace) -> list[Prompt]:
    """Return development prompts in all languages."""
    found: list[Prompt] = []
    for label in LANGUAGES:
        if chat:
            some = questions(options.data, label, "development")
        else:
            written = lines(options.data / "heldout" / f"{label}.txt.xz")[0::4]
            some = [each for each in (beginning(text, label) for text in written) if each]
        found += [Prompt(text, label) for text in some[options.skip :][: options.prompts]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("model")
    parser.add_argument("settings", nargs="+", metavar="METHOD:ARGUMENTS*STRENGTH")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--statistics", type=Path, default=ROOT / "runs" / "ready_made")
    parser.add_argument("--prompts", type=int, default=1, help="per language")
    parser.add_argument("--skip", type=int, default=0, help="prompts to leave out first")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=132)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "all_pairs")
    options = parser.parse_args()
    folder = options.statistics / options.model
    stats = ns.Stats.from_pretrained(folder / "stats")
    model, tokenizer = loaded(options.model)
    chat = bool(tokenizer.chat_template)
    texts = [text for label in LANGUAGES for text in texts_of(options.data, label, tokenizer)]
    natural = {
        label: thinned(lines(options.data / "heldout" / f"{label}.txt.xz")[1::2], 40)
        for label in LANGUAGES
    }
    prompts = prompts_of(chat, options)
    texts += [text for some in natural.values() for text in some] + [p.text for p in prompts]
    tokenizer = shorten(model, tokenizer, texts, chat)
    print(f"{model.config.vocab_size:,} tokens are left", flush=True)
    identifier = identifier_among("lingua", LANGUAGES)
    settings = TuningSettings(
        max_new_tokens=options.tokens, temperature=0.3 if chat else 0.8, chat=chat, first=1000
    )
    plan = {"settings": {**vars(settings)}, "prompts": [p.text for p in prompts]}
    saved = SavedCases(options.work / options.model, plan, resume=True)
    for text in options.settings:
        began = time.monotonic()
        method, arguments, strength = parsed(text)
        neurons = ns.detect(stats, method, **arguments)
        measured = Measurements(
            model,
            tokenizer,
            neurons,
            prompts,
            natural,
            identifier,
            settings,
            saved,
            Budget(None),
            batch_size=options.batch_size,
            candidate=text.partition("*")[0],
        )
        measured.write_references(LANGUAGES)
        wanted = [Setting(label, strength) for label in LANGUAGES]
        measured.generate(wanted, 0)
        measured.compare_with_natural(wanted, 0)
        cells = {setting.label: measured.cell(setting) for setting in wanted}
        pairs = [
            same(item["identified"], setting.label)
            for setting in wanted
            for item in measured.items(setting)
        ]
        worst = min(cells.values(), key=lambda cell: cell.success)
        print(
            f"{text}  success {statistics.fmean(pairs):.3f}  worst {worst.label} "
            f"{worst.success:.2f}  "
            f"distinct {statistics.fmean(cell.distinct for cell in cells.values()):.3f}  "
            f"natural {statistics.fmean(cell.natural for cell in cells.values()):.3f}  "
            f"rows {len(neurons.label):,}  {time.monotonic() - began:.0f} s",
            flush=True,
        )
        for setting in wanted[1:4]:
            print(f"    {setting.label}: {measured.items(setting)[0]['text']!r}", flush=True)


if __name__ == "__main__":
    main()
