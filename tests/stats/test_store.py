"""Stats: accessors, files, merging, counts published by others."""

import json
import logging

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

import neuronsteer.stats as st
from neuronsteer.detectors import detect
from neuronsteer.errors import HubError, LabelError, MismatchError, ParameterError, StatsError
from neuronsteer.stats import Need, Stats
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, texts

pytest_plugins = ("tests.hub_server.fixtures",)

NEEDS = [*st.DEFAULT_NEEDS, "responses@mlp.neuron", "quantile@mlp.act"]


def run(data, family="llama", **options):
    options = {"needs": NEEDS, "progress": False} | options
    return st.collect(tiny_model(family), tiny_tokenizer(), data, **options)


@pytest.fixture(scope="module")
def stats():
    return run(corpus("a", "b", "c", count=8))


def same(left: Stats, right: Stats) -> bool:
    return (
        left.labels == right.labels
        and left.tokens == right.tokens
        and left.texts == right.texts
        and left.site_widths == right.site_widths
        and left.needs == right.needs
        and left.header == right.header
        and all(torch.equal(left.arrays[need], right.arrays[need]) for need in left.arrays)
        and all(
            torch.equal(rows[label], right.rows[need][label])
            for need, rows in left.rows.items()
            for label in left.labels
        )
        and all(torch.equal(left.routed[site], right.routed[site]) for site in left.routed)
    )


def test_round_trip(stats, tmp_path):
    folder = stats.save(tmp_path / "new" / "stats")
    assert sorted(path.name for path in folder.iterdir()) == ["stats.json", "stats.safetensors"]
    assert same(stats, Stats.load(folder))
    assert same(stats, Stats.load(str(folder)))
    stats.only("b").save(folder)  # over the old one
    assert Stats.load(folder).labels == ("b",)


def test_hugging_face_verbs_read_folders_and_repositories(stats, tmp_path, hub):
    folder = stats.save_pretrained(tmp_path / "stats")
    assert same(stats, Stats.from_pretrained(folder))
    assert same(stats, Stats.from_pretrained(tmp_path, subfolder="stats"))
    huggingface_hub.create_repo("ann/stats")
    huggingface_hub.upload_folder(repo_id="ann/stats", folder_path=folder, path_in_repo="a")
    hub.fresh_cache()
    assert same(stats, Stats.from_pretrained("ann/stats", subfolder="a"))
    with pytest.raises(HubError, match="stats.json"):
        Stats.from_pretrained("ann/stats")
    with pytest.raises(HubError, match="nothing"):
        Stats.from_pretrained(tmp_path / "nothing")


def test_files_are_as_readable_as_any_other(stats, tmp_path):
    (tmp_path / "other").write_text("")
    folder = stats.save(tmp_path / "s")
    modes = {path.stat().st_mode for path in (tmp_path / "other", *folder.iterdir())}
    assert len(modes) == 1


def test_labels_may_be_anything(tmp_path):
    stats = Stats.from_counts({"a/b": [[1, 2]], "日本 @ ☂": [[0, 1]]}, {"a/b": 3, "日本 @ ☂": 2})
    assert same(stats, Stats.load(stats.save(tmp_path)))


def test_accessors(stats):
    assert stats.has("count", "mlp.act")
    assert stats.has("responses", "mlp.neuron")
    assert not stats.has("count", "mlp.neuron")
    assert stats.num_layers == 2
    assert stats.widths == (80, 80)
    assert stats.width == 80
    assert stats.model_type == "llama"
    assert stats.gated is True
    assert stats.revision is None
    with pytest.raises(StatsError, match=r"'count' at 'mlp.neuron'.*count@mlp.act.*needs="):
        stats.get("count", "mlp.neuron")
    with pytest.raises(StatsError, match="responses"):
        stats.responses("mlp.act")
    mean = stats.mean("mlp.act").double()
    want = torch.stack([mean[[1, 2]].mean(0), mean[[0, 2]].mean(0), mean[[0, 1]].mean(0)])
    assert torch.allclose(stats.other_mean("mlp.act").double(), want, atol=1e-6)
    with pytest.raises(StatsError, match="at least two"):
        stats.only("a").other_mean("mlp.act")
    assert stats.probabilities().dtype == torch.float64


def test_only_selects_and_reorders(stats):
    part = stats.only("c", "a")
    assert part.labels == ("c", "a")
    assert torch.equal(part.mean("mlp.act"), stats.mean("mlp.act")[[2, 0]])
    assert part.responses("mlp.neuron")["c"] is stats.responses("mlp.neuron")["c"]
    assert list(part.calibration) == ["c", "a"]
    with pytest.raises(LabelError, match="Unknown label 'x'"):
        stats.only("x")
    with pytest.raises(StatsError, match="different labels"):
        stats.only("a", "a")
    with pytest.raises(StatsError, match="different labels"):
        stats.only()


def test_repr_and_summary(stats):
    assert "a " in repr(stats)
    assert "2 layers × 80 of llama" in repr(stats)
    assert "count@mlp.act" in repr(stats)
    summary = json.loads(json.dumps(stats.summary()))
    assert summary["labels"] == ["a", "b", "c"]
    assert summary["tokens"] == stats.tokens
    assert summary["policy"]["skip_bos"] is True


def test_merging_shards_equals_collecting_at_once():
    first, second = texts("a", 14)[:6], texts("a", 14)[6:]
    left = run({"a": first, "b": texts("b", 4)})
    right = run({"a": second, "c": texts("c", 4)})
    whole = run({"a": first + second, "b": texts("b", 4), "c": texts("c", 4)})
    merged = left.merge(right)
    assert merged.labels == ("a", "b", "c")
    assert merged.tokens == whole.tokens
    assert merged.texts == whole.texts
    for need, array in whole.arrays.items():
        if array.dtype == torch.float64:
            assert torch.allclose(merged.arrays[need], array, rtol=1e-6, atol=1e-4)
        else:
            assert torch.equal(merged.arrays[need], array)
    for label in whole.labels:
        left_rows, right_rows = (s.responses("mlp.neuron")[label] for s in (merged, whole))
        assert torch.allclose(left_rows, right_rows, atol=1e-6)
    assert merged.header["calibration"]["a"]["tokens"] == whole.tokens["a"]
    assert left.merge().labels == left.labels


def test_merging_refuses_what_does_not_belong_together(stats):
    with pytest.raises(StatsError, match="the same texts"):
        stats.merge(run(corpus("a", count=8)))
    with pytest.raises(MismatchError, match="policy"):
        stats.merge(run(corpus("a", count=5), max_length=9))
    with pytest.raises(MismatchError, match="model_type"):
        stats.merge(run(corpus("a", count=5), family="gpt2"))
    with pytest.raises(MismatchError, match="sites"):
        stats.merge(run(corpus("a", count=5), needs=["count@mlp.act"]))
    needs = [need for need in NEEDS if need != ("sumsq", "mlp.act")]
    with pytest.raises(StatsError, match=r"Only one.*sumsq@mlp\.act"):
        stats.merge(run(corpus("a", count=5), needs=needs))


def test_from_counts():
    counts = {"a": torch.tensor([[1, 2, 3], [0, 0, 4]]), "b": [[2.0, 0, 0], [1, 1, 1]]}
    stats = Stats.from_counts(counts, {"a": 4, "b": 2}, model_type="llama", base_model="org/m")
    assert stats.labels == ("a", "b")
    assert (stats.num_layers, stats.width, stats.widths) == (2, 3, (3, 3))
    assert stats.get("count", "mlp.act").dtype == torch.int64
    assert stats.probabilities()[0].tolist() == [[0.25, 0.5, 0.75], [0, 0, 1]]
    assert stats.base_model == "org/m"
    assert stats.texts == {"a": 0, "b": 0}
    other = Stats.from_counts({"c": counts["a"]}, {"c": 9}, model_type="llama")
    assert stats.merge(other).labels == ("a", "b", "c")
    assert stats.merge(stats).tokens == {"a": 8, "b": 4}


GOOD = {"a": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("counts", "tokens", "options", "message"),
    [
        ({}, {}, {}, "no counts"),
        (GOOD, {"b": 4}, {}, "different labels: 'a', 'b'"),
        (GOOD, {"a": 0}, {}, r"tokens\['a'\] is 0"),
        (GOOD, {"a": 3}, {}, r"1 of 4 counts .* 'a' 1, by at most 1 \(33.3 % of its 3 tokens\)"),
        ({"a": [[-1, 2]]}, {"a": 3}, {}, r"1 of 2 counts .* 'a' 1, by at most 1 .*clip=True"),
        ({"a": [[0.5, 2]]}, {"a": 3}, {}, "whole numbers"),
        ({"a": [[True, False]]}, {"a": 3}, {}, "whole numbers"),
        ({"a": [1, 2]}, {"a": 3}, {}, r"shape \[2\]"),
        ({"a": [[1]], "b": [[1, 2]]}, {"a": 3, "b": 3}, {}, "differ in shape"),
        (GOOD, {"a": 4}, {"num_layers": 3}, "num_layers=3 contradicts"),
        (GOOD, {"a": 4}, {"widths": [2]}, "widths"),
    ],
)
def test_from_counts_refuses(counts, tokens, options, message):
    with pytest.raises(StatsError, match=message):
        Stats.from_counts(counts, tokens, **options)


# What subtracting two runs leaves that did not round alike.
NEARLY = {"a": [[1000, 1001, 999], [0, -1, 500]], "b": [[5, 6, 7], [8, 9, 10]]}
TOKENS = {"a": 1000, "b": 10}


def test_counts_that_are_a_little_off_are_accepted_on_request(caplog, tmp_path):
    with pytest.raises(StatsError, match=r"2 of 12 counts .* 'a' 2, by at most 1 \(0.1 % of its"):
        Stats.from_counts(NEARLY, TOKENS)
    with caplog.at_level(logging.WARNING):
        stats = Stats.from_counts(NEARLY, TOKENS, clip=True, model_type="llama")
    assert "2 of 12 counts" in caplog.text and "clipped" in caplog.text
    assert stats.get("count", "mlp.act")[0].tolist() == [[1000, 1000, 999], [0, 0, 500]]
    assert stats.probabilities().max() == 1
    clipped = {"a": {"clipped": {"values": 2, "by_at_most": 1}}}
    assert stats.summary()["calibration"] == clipped
    assert Stats.load(stats.save(tmp_path)).summary()["calibration"] == clipped
    # It goes where the label goes, and adds up with it.
    assert stats.only("b").calibration == {}
    assert stats.merge(stats).calibration["a"]["clipped"] == {"values": 4, "by_at_most": 1}
    neurons = detect(stats, "lape", rate=1.0, filter=0.0, bar=0.0)
    assert neurons.calibration["a"]["clipped"] == {"values": 2, "by_at_most": 1}
    assert "clipped" not in neurons.calibration["b"]


def test_counts_that_are_in_range_are_not_clipped(caplog):
    stats = Stats.from_counts(GOOD, {"a": 4}, clip=True)
    assert not caplog.text
    assert stats.calibration == {}


@pytest.mark.parametrize("tokens", ["n", "total_tokens"])
def test_count_files_of_lape_and_its_successors(tmp_path, tokens):
    """LAPE saves `n` beside float sums, in int32; the alignment paper `total_tokens`, in int64."""
    dtype = torch.int32 if tokens == "n" else torch.int64
    more = {"sum1": torch.ones(2, 3)} if tokens == "n" else {}
    paths = {}
    for label, counts in NEARLY.items():
        for part, add in (("whole", 7), ("prefix", 0)):
            over_zero = torch.tensor(counts, dtype=dtype) * bool(add) + 7
            found = {tokens: TOKENS[label] * bool(add) + 9, "over_zero": over_zero, **more}
            paths[part, label] = tmp_path / f"{part}.{label}.pt"
            torch.save(found, paths[part, label])
    whole = {label: paths["whole", label] for label in NEARLY}
    prefix = {label: paths["prefix", label] for label in NEARLY}
    with pytest.raises(StatsError, match="2 of 12 counts"):
        Stats.from_count_files(whole, subtract=prefix)
    got = Stats.from_count_files(whole, subtract=prefix, clip=True, base_model="org/m")
    want = Stats.from_counts(NEARLY, TOKENS, clip=True, base_model="org/m")
    assert same(got, want)
    alone = Stats.from_count_files(prefix)
    assert alone.tokens == {"a": 9, "b": 9}
    assert alone.get("count", "mlp.act").unique().tolist() == [7]


COUNT_FILE = {"n": 9, "over_zero": torch.tensor([[1, 2]])}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a dictionary with 'over_zero'"),
        ({"n": 3, "counts": [[1]]}, "holds a dict with n, counts"),
        ({"over_zero": torch.tensor([[1]])}, "'n' or 'total_tokens' is None"),
        ({**COUNT_FILE, "n": 2.5}, r"is 2.5; expected a whole number"),
        ({**COUNT_FILE, "over_zero": torch.tensor([1])}, r"'over_zero' in a.pt has shape \[1\]"),
        ({**COUNT_FILE, "over_zero": [[1], [2, 3]]}, "'over_zero' in a.pt is not a table"),
        ({**COUNT_FILE, "over_zero": torch.ones(1, 1).expand(10**6, 10**6)}, "repeats its data"),
        (COUNT_FILE, "b.pt' does not exist"),
    ],
)
def test_what_is_no_count_file(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(StatsError, match=message):
        Stats.from_count_files({"a": tmp_path / "a.pt", "b": tmp_path / "b.pt"})


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code in a file was run",))


def test_code_in_a_file_of_counts_is_never_run(tmp_path, capsys):
    torch.save({**COUNT_FILE, "over_zero": Evil()}, tmp_path / "a.pt")
    with pytest.raises(StatsError, match="never unpickled"):
        Stats.from_count_files({"a": tmp_path / "a.pt"})
    assert capsys.readouterr().out == ""


def test_files_to_subtract_must_go_with_the_others(tmp_path):
    torch.save(COUNT_FILE, tmp_path / "a.pt")
    torch.save({"n": 1, "over_zero": torch.tensor([[1]])}, tmp_path / "b.pt")
    with pytest.raises(StatsError, match=r"different labels: 'x' is only in one"):
        Stats.from_count_files(
            {"a": tmp_path / "a.pt"}, subtract={"a": tmp_path / "b.pt", "x": tmp_path / "b.pt"}
        )
    with pytest.raises(StatsError, match=r"b.pt has counts of shape \[1, 1\]"):
        Stats.from_count_files({"a": tmp_path / "a.pt"}, subtract={"a": tmp_path / "b.pt"})


def test_from_counts_refuses_unknown_sites():
    with pytest.raises(ParameterError, match="Did you mean 'mlp.act'"):
        Stats.from_counts(GOOD, {"a": 4}, site="mlp.akt")


def edit(folder, **changes):
    path = folder / "stats.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(facts))


def change(folder, edit_tensors):
    path = folder / "stats.safetensors"
    save = json.loads((folder / "stats.json").read_text())["save"]
    tensors = load_file(path)
    edit_tensors(tensors)
    save_file(tensors, path, metadata={"save": save})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format 2.*Update"),
        ({"format": None}, "'format'"),
        ({"labels": ["a", "a", "b"]}, "'labels'"),
        ({"labels": []}, "'labels'"),
        ({"labels": ["a", "b"]}, "'tokens'"),
        ({"tokens": [1, 2, 0]}, "'tokens'"),
        ({"tokens": [1, 2, 2.5]}, "'tokens'"),
        ({"tokens": [1, 1, 1]}, r"'array/count@mlp.act'.*exceed"),
        ({"texts": [1, -1, 1]}, "'texts'"),
        ({"site_widths": {}}, "'site_widths'"),
        ({"site_widths": {"mlp.act": [80, 80]}}, "mlp.neuron"),
        ({"site_widths": {"mlp.act": [80], "mlp.neuron": [80]}}, "'widths'"),
        ({"site_widths": {"mlp.act": [80, -1], "mlp.neuron": [80, 80]}}, "'site_widths'"),
        ({"header": []}, "'header'"),
        ({"save": "other"}, "not from the same save"),
    ],
)
def test_malformed_facts_are_refused_by_name(stats, tmp_path, changes, message):
    stats.save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(StatsError, match=message):
        Stats.load(tmp_path)


def nan(tensors):
    tensors["array/sum@mlp.act"][0, 0, 0] = float("nan")


def half(tensors):
    tensors["array/count@mlp.act"] = tensors["array/count@mlp.act"].float()


def narrow(tensors):
    tensors["array/max@mlp.act"] = tensors["array/max@mlp.act"][..., :7].contiguous()


def unknown(tensors):
    tensors["other"] = torch.zeros(1)


def misplaced(tensors):
    tensors["rows/responses@mlp.neuron/9"] = torch.zeros(1, 2, 80)


def nan_row(tensors):
    tensors["rows/responses@mlp.neuron/1"][0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("edit_tensors", "message"),
    [
        (nan_row, "rows/responses@mlp.neuron/1.*NaN"),
        (nan, r"sum@mlp\.act.*NaN"),
        (half, r"count@mlp\.act.*float32"),
        (narrow, r"max@mlp\.act.*shape \[3, 2, 7\]"),
        (unknown, "unknown tensor 'other'"),
        (misplaced, "rows/responses"),
    ],
)
def test_malformed_numbers_are_refused_by_name(stats, tmp_path, edit_tensors, message):
    stats.save(tmp_path)
    change(tmp_path, edit_tensors)
    with pytest.raises(StatsError, match=message):
        Stats.load(tmp_path)


@pytest.mark.parametrize(
    "routed", [torch.tensor([[[-1, 1]]]), torch.tensor([[[9, 1]]]), torch.tensor([[[0.5, 1]]])]
)
def test_tokens_per_expert_are_checked_like_counts(tmp_path, routed):
    block = {"num_experts": 2, "expert_width": 1}
    Stats(
        labels=("a",),
        tokens={"a": 8},
        texts={"a": 1},
        site_widths={"mlp.act": (2,)},
        arrays={Need("count", "mlp.act"): torch.zeros(1, 1, 2, dtype=torch.int64)},
        routed={"mlp.act": routed},
        header={"experts": {"mlp.act": [block]}},
    ).save(tmp_path)
    with pytest.raises(StatsError, match="'routed/mlp.act' holds counts"):
        Stats.load(tmp_path)


def test_missing_and_damaged_files(stats, tmp_path):
    with pytest.raises(StatsError, match="no such folder"):
        Stats.load(tmp_path / "nowhere")
    with pytest.raises(StatsError, match="it holds nothing"):
        Stats.load(tmp_path)
    stats.save(tmp_path)
    numbers = tmp_path / "stats.safetensors"
    numbers.write_bytes(numbers.read_bytes()[:5000])
    with pytest.raises(StatsError, match="damaged"):
        Stats.load(tmp_path)
    (tmp_path / "stats.json").write_text("{")
    with pytest.raises(StatsError, match="is not readable JSON"):
        Stats.load(tmp_path)
    with pytest.raises(StatsError, match="is a file"):
        stats.save(numbers)


def test_needs_are_sorted_the_same_way_after_loading(stats, tmp_path):
    assert Stats.load(stats.save(tmp_path)).needs == stats.needs
    assert Need("count", "mlp.act") in stats.needs
