"""Neuron sets as PEFT adapters: one adapter per label, called `lang_<label>`.

Importing this package (which `import neuronsteer` sees to once PEFT is imported) registers the
method `NEURONSTEER` with PEFT. A set saved with `save_pretrained(folder, peft=True)` or pushed to
the Hub then loads like any adapter. Its root is the adapter of one label, the first with neurons
unless `peft="fr"` chose another; every label is in the subfolder that PEFT itself would use:

    model = PeftModel.from_pretrained(model, repo)                              # the root's label
    model = PeftModel.from_pretrained(model, repo, subfolder="lang_fr", adapter_name="lang_fr")
    model.load_adapter(repo, "lang_ja", subfolder="lang_ja")
    model.set_adapter("lang_ja")
    model.generate(**inputs, adapter_names=["lang_fr", "lang_ja", "__base__"])  # one per row

    model = AutoModelForCausalLM.from_pretrained(repo)                          # transformers alone
    model.load_adapter(repo, "lang_ja", adapter_kwargs={"subfolder": "lang_ja"})
    model.set_adapter("lang_ja")

With the Auto classes a label other than the root's needs the same `adapter_kwargs` (transformers)
or the path of a local subfolder (PEFT): they would look for the base model under `subfolder=` too.

`as_peft_model(model, neurons)` does it for all labels at once, with any operation, also from a set
that was saved without PEFT files.
"""

from .config import NeuronSteerConfig
from .layer import NeuronSteerLayer
from .model import NeuronSteerModel, as_peft_model
from .register import peft_type, register

register(NeuronSteerConfig, NeuronSteerModel)

__all__ = [
    "NeuronSteerConfig",
    "NeuronSteerLayer",
    "NeuronSteerModel",
    "as_peft_model",
    "peft_type",
]
