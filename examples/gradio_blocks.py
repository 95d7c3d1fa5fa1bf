"""The idea of the page in a few lines of Gradio: press a language while the model writes.

python examples/gradio_blocks.py                                        # the demo model, offline
python examples/gradio_blocks.py --model google/gemma-3-270m --set gemma
"""

import argparse
import time
from threading import Thread

import gradio as gr
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

import neuronsteer as ns
from neuronsteer.demo import model_folder

running: dict[str, ns.Steerer] = {}  # what every visitor's text is steered by, while it is written


class Paced(TextIteratorStreamer):
    def put(self, value) -> None:
        time.sleep(0.12)  # so that one can press in time
        super().put(value)


def build(model, tokenizer, neurons: ns.NeuronSet) -> gr.Blocks:
    def write(prompt: str, label: str, request: gr.Request):
        streamer = Paced(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
        options = {"do_sample": True, "max_new_tokens": 100, "streamer": streamer}
        # private: a visitor's steerer acts in its own generate() only.
        with ns.attach(model, neurons, private=True) as steer:
            running[request.session_hash] = steer
            steer.to(label)
            options |= tokenizer(prompt, return_tensors="pt")
            Thread(target=steer.generate, kwargs=options).start()
            for piece in streamer:
                prompt += piece
                yield prompt

    def switch(label: str, request: gr.Request) -> None:
        if (steer := running.get(request.session_hash)) and steer.attached:
            steer.to(label, away_from="previous")  # from the next token on

    with gr.Blocks(title="Press a language while it writes") as page:
        prompt = gr.Textbox("The old man looked out of the window, and", label="Prompt")
        language = gr.Radio(neurons.labels, value=neurons.labels[0], label="Language")
        text = gr.Textbox(label="Text", lines=8)
        gr.Button("Generate").click(write, [prompt, language], text)
        language.input(switch, language)
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=model_folder(), help="Hub id or folder")
    parser.add_argument("--set", default="demo", help="its neuron set")
    chosen = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(chosen.model)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    build(model, tokenizer, ns.NeuronSet.from_pretrained(chosen.set)).launch()
