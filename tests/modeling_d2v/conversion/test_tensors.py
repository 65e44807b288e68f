"""Putting source tensors in their places: parts, copies, laziness, and one error that lists every problem."""

import pytest
import torch

from modeling_d2v.conversion.tensors import Assembly, Filler, Place, TensorMismatchError, Unused, rename, third, walk


def shapes(**names: tuple[int, ...]) -> dict[str, torch.Size]:
    return {name.replace("__", "."): torch.Size(shape) for name, shape in names.items()}


def test_query_key_and_value_are_joined_and_can_be_taken_apart():
    filler = Filler(shapes(qkv__weight=(6, 3)), "test")
    parts = {part: torch.full((2, 3), float(i)) for i, part in enumerate("qkv")}
    for part in "vqk":
        filler.put(part, Place("qkv.weight", part), parts[part])
    joined = filler.finish().tensors["qkv.weight"]
    assert all(torch.equal(third(joined, part), parts[part]) for part in "qkv")


def test_layers_are_stacked_in_the_order_of_their_numbers():
    filler = Filler(shapes(table=(11, 2)), "test")
    for layer in reversed(range(11)):
        filler.put(str(layer), Place("table", str(layer)), torch.full((2,), float(layer)))
    assert filler.finish().tensors["table"][:, 0].tolist() == list(range(11))


def test_a_missing_bias_of_keys_is_zero_only_where_that_is_said():
    for announced in (True, False):
        filler = Filler(shapes(qkv__bias=(6,)), "test", without_key_bias=announced)
        for part in "qv":
            filler.put(part, Place("qkv.bias", part), torch.ones(2))
        if announced:
            assert filler.finish().tensors["qkv.bias"].tolist() == [1, 1, 0, 0, 1, 1]
        else:
            with pytest.raises(ValueError, match=r"\['q', 'v'\]"):
                filler.finish()


def test_a_copy_fills_what_nothing_else_fills_and_shares_no_memory():
    filler = Filler(shapes(a=(2,), b=(2,), c=(2,)), "test")
    filler.put("x", Place("a"), torch.ones(2))
    filler.put("y", Place("b"), torch.zeros(2))
    filler.copy("b", "a")
    filler.copy("c", "a")
    tensors = filler.finish().tensors
    assert tensors["b"].tolist() == [0, 0] and tensors["c"].tolist() == [1, 1]
    assert tensors["c"].data_ptr() != tensors["a"].data_ptr()


def test_shapes_are_compared_without_the_data(monkeypatch):
    filler = Filler(shapes(qkv=(6, 3)), "test")
    for part in "qkv":
        filler.put(part, Place("qkv", part), torch.ones(2, 3))
    made, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts: made.append(parts[0].device.type) or cat(parts))
    tensors = filler.finish().tensors
    assert made == ["meta"]
    assert tensors["qkv"].shape == (6, 3) and made == ["meta", "cpu"]


def test_one_error_names_every_problem():
    filler = Filler(shapes(a=(2,), b=(2,), qkv=(6, 3), table=(3, 2)), "strange")
    filler.put("x", Place("a"), torch.ones(3))
    filler.put("y", Place("a"), torch.ones(2))
    filler.put("z", Place("nowhere"), torch.ones(2))
    for part, width in (("q", 3), ("k", 3), ("v", 4)):
        filler.put(part, Place("qkv", part), torch.ones(2, width))
    for layer in ("0", "2"):
        filler.put(layer, Place("table", layer), torch.ones(2))
    with pytest.raises(TensorMismatchError) as caught:
        filler.finish(advice="Try another one.")
    message = str(caught.value)
    assert message.startswith("Cannot convert this strange checkpoint") and message.endswith("Try another one.")
    for problem in (
        "y and x both fill a",
        "z would become nowhere",
        "nothing fills b",
        "a has shape (3,) instead of (2,)",
        "the parts of qkv do not fit together",
        "table is made of 3 layers, of which there are [0, 2]",
    ):
        assert problem in message


def test_what_has_no_place_is_listed():
    filler = Filler({}, "test")
    filler.put("x", Unused("x", "not needed"), torch.ones(1))
    assert filler.finish().unused == [Unused("x", "not needed")]


def test_only_tensors_are_taken():
    with pytest.raises(ValueError, match="tensor"):
        list(walk({"step": 3}))


def test_a_first_row_is_added_to_every_row():
    filler = Filler(shapes(table=(3, 2)), "test")
    filler.put("rows", Place("table", "+"), torch.tensor([[10.0, 20.0], [5.0, 5.0]]))
    filler.put("x", Place("table"), torch.arange(6.0).view(3, 2))
    assert filler.finish().tensors["table"].tolist() == [[10, 21], [12, 23], [14, 25]]


def test_spare_tensors_are_used_where_there_is_a_place():
    for expected in (shapes(pooler=(2,)), {}):
        filler = Filler(expected, "test")
        filler.put("theirs", Place("pooler", spare="no pooler here"), torch.ones(2))
        conversion = filler.finish()
        assert set(conversion.tensors) == set(expected)
        assert conversion.unused == ([] if expected else [Unused("theirs", "no pooler here")])


@pytest.mark.parametrize("first", ["spare", "other"])
def test_a_spare_tensor_gives_way_to_another(first):
    filler = Filler(shapes(bias=(2,)), "test")
    for label in ("spare", "other") if first == "spare" else ("other", "spare"):
        spare = "a copy" if label == "spare" else None
        filler.put(label, Place("bias", spare=spare), torch.full((2,), float(label == "other")))
    conversion = filler.finish()
    assert conversion.unused == [Unused("spare", "a copy")]
    assert conversion.tensors["bias"].tolist() == [1, 1]


def test_what_is_read_shares_no_memory_with_the_source():
    source = torch.ones(1, 1, 4)
    filler = Filler({"a.mask_token": torch.Size([4]), "b": source.shape}, "test")
    filler.put("x", Place("a.mask_token"), source)
    filler.put("y", Place("b"), source)
    tensors = filler.finish().tensors
    for tensor in tensors.values():
        tensor.zero_()
    assert tensors["a.mask_token"].shape == (4,) and source.all()


def test_a_look_at_a_tensor_copies_nothing():
    source = torch.ones(3)
    filler = Filler({"a": source.shape, "b.mask_token": source.shape}, "test")
    filler.put("x", Place("a"), source)
    filler.put("y", Place("b.mask_token"), source[None, None])
    tensors = filler.finish().tensors
    assert tensors.peek("a").data_ptr() == source.data_ptr() != tensors["a"].data_ptr()
    assert tensors.peek("b.mask_token").shape == (3,)
    chosen = Assembly()
    chosen.take("c", tensors, "a")
    assert list(chosen) == ["c"] and torch.equal(chosen["c"], source)


def test_names_are_translated_by_a_table():
    table = (("layers.*.query.*", "blocks.*.qkv.*#q"), ("layers.*.out.*", "blocks.*.projection.*"), ("a.b", "c"))
    assert rename("layers.10.query.bias", table) == "blocks.10.qkv.bias#q"
    assert rename("layers.1.out.a.b", table) is None and rename("aXb", table) is None
