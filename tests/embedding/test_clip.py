import json
import socket
import time
import urllib.error
import urllib.request
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from curate.embedding import clip as clips
from curate.embedding.clip import Clip, load
from curate.embedding.decode import to_array
from curate.embedding.devices import one_thread
from curate.embedding.torchvision_guard import import_open_clip
from curate.errors import ModelError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TOWERS = {
    "curate-test-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "curate-test-vit": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Small models with random weights: name -> path of a safetensors file."""
    from safetensors.torch import save_file

    open_clip = import_open_clip()
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    found = {}
    for name, vision in TOWERS.items():
        config = folder / f"{name}.json"
        config.write_text(json.dumps({"embed_dim": 48, "vision_cfg": vision, "text_cfg": TEXT}))
        open_clip.add_model_config(config)
        with clips.quiet():
            network = open_clip.create_model(name)
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        found[name] = folder / f"{name}.safetensors"
    return found


@pytest.fixture(scope="module")
def models(checkpoints):
    return {name: load(name, str(path), batch_size=16) for name, path in checkpoints.items()}


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def images(model: Clip, n, seed=0):
    shape = (n, *model.preprocess.size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def captions(n):
    return [f"{'large ' * (i % 7)}photo number {i} of a {['cat', 'dog', 'tree'][i % 3]}" for i in range(n)]


def test_tiny_loads_without_a_network_and_describes_itself(tiny, no_network):
    again = load("tiny")
    assert again.identity == tiny.identity
    assert (tiny.name, tiny.pretrained, tiny.device, tiny.precision) == ("tiny", None, "cpu", "float32")
    assert tiny.preprocess.size == (64, 64)
    assert 0 < tiny.temperature < 1
    assert len(repr(tiny)) < 1_000


def test_vectors_are_what_open_clip_computes(models):
    open_clip = import_open_clip()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for model in models.values():
        network = model._model
        transform = open_clip.image_transform(
            model.preprocess.size[0],
            is_train=False,
            mean=model.preprocess.mean,
            std=model.preprocess.std,
        )
        tokens = open_clip.get_tokenizer(model.name)(["a cat"])
        with torch.inference_mode():
            image = network.encode_image(transform(picture)[None], normalize=True).numpy()
            text = network.encode_text(tokens, normalize=True).numpy()
        ours = model.encode_images(to_array(picture, model.preprocess)[None])
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, image, atol=1e-6)
        np.testing.assert_allclose(model.encode_texts(["a cat"]), text, atol=1e-6)


def test_vectors_have_unit_length_and_none_is_ordinary(models):
    for model in models.values():
        for vectors in (model.encode_images(images(model, 5)), model.encode_texts(captions(5))):
            assert vectors.shape == (5, model.dim)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert model.encode_images(images(model, 0)).shape == (0, model.dim)
        assert model.encode_texts([]).shape == (0, model.dim)


@pytest.mark.parametrize("name", [*TOWERS, "tiny"])
def test_a_row_does_not_depend_on_its_batch_or_on_threads(models, tiny, name):
    model = replace(tiny if name == "tiny" else models[name], batch_size=8)
    pixels, texts = images(model, 20), captions(20)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            order = np.random.default_rng(threads).permutation(20)
            for encode, rows in ((model.encode_images, pixels), (model.encode_texts, np.array(texts))):
                whole = encode(rows)
                shuffled = np.empty_like(whole)
                shuffled[order] = encode(rows[order])
                np.testing.assert_array_equal(shuffled, whole)
                np.testing.assert_array_equal(encode(rows[7:8]), whole[7:8])
                results.append(whole)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[3])


def test_threads_are_put_back_by_the_last_one_out():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_row_without_a_finite_vector_is_nan_and_alone(models, monkeypatch):
    model = models["curate-test-vit"]
    real = model._model.encode_text

    def broken(tokens):
        features = real(tokens).clone()
        features[1], features[2] = np.inf, 0
        return features

    monkeypatch.setattr(model._model, "encode_text", broken)
    vectors = model.encode_texts(captions(4))
    assert np.isnan(vectors[1:3]).all()
    assert np.isfinite(vectors[[0, 3]]).all()


def test_half_precision_is_close(models, checkpoints):
    for name, path in checkpoints.items():
        half = load(name, str(path), precision="bfloat16", batch_size=8)
        assert half.identity == models[name].identity
        pixels = images(half, 8)
        cosine = (half.encode_images(pixels) * models[name].encode_images(pixels)).sum(axis=1)
        assert cosine.min() > 0.99


def test_identity_is_that_of_the_weights(checkpoints, tmp_path):
    from safetensors.torch import load_file

    path = checkpoints["curate-test-vit"]
    weights = load_file(path)
    torch.save({"state_dict": weights}, tmp_path / "same.pt")
    weights["logit_scale"] = weights["logit_scale"] + 1e-3
    torch.save(weights, tmp_path / "other.pt")
    one, same, other = (
        load("curate-test-vit", str(file)) for file in (path, tmp_path / "same.pt", tmp_path / "other.pt")
    )
    assert one.identity == same.identity != other.identity
    assert one.temperature == pytest.approx(0.07, rel=1e-5)
    assert other.temperature == pytest.approx(0.07 / np.exp(1e-3), rel=1e-5)


# Captions


def whole_tokens(model, text):
    return model._tokenizer([text])[0]


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a cat and a dog " * 2_000,
        "tree" + " " * 50_000 + "house",
        "\n" * 30_000 + "x\n" * 1_000,
        "&amp;amp;lt;b " * 3_000,
        "qwertyuiopasdfghjkl" * 1_000,
        "漢字かな" * 4_000,
        "😀🎉" * 4_000,
        "â€œquotedâ€\x9d " * 3_000,
        "word " * 3 + "\t \r\n" * 9_000,
    ],
)
def test_long_captions_keep_the_tokens_of_the_whole(models, text):
    model = models["curate-test-vit"]
    np.testing.assert_array_equal(clips._tokenize([text], model._tokenizer)[0], whole_tokens(model, text))


def test_megabytes_of_caption_take_no_time(models):
    model = models["curate-test-vit"]
    texts = ["x\n" * 500_000, "q" * 1_000_000, "漢" * 1_000_000, " " * 1_000_000 + "cat", "&nbsp;" * 170_000]
    start = time.monotonic()
    vectors = model.encode_texts([*texts, "cat"])
    assert time.monotonic() - start < 3
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[3], vectors[5])


def test_captions_of_any_characters(models):
    texts = ["", "\ud800 lone surrogate", "\0", "<end_of_text>", "🏳️‍🌈"]
    assert np.isfinite(models["curate-test-vit"].encode_texts(texts)).all()


# What goes wrong


def test_unknown_names_are_answered_with_suggestions(no_network):
    with pytest.raises(ModelError, match=r"no model is called 'ViT-B32'; did you mean 'ViT-B-32'"):
        load("ViT-B32", "openai")
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        load("tinny")
    with pytest.raises(
        ModelError, match="neither a file nor weights of 'ViT-B-32'; did you mean 'laion2b_s34b_b79k'"
    ):
        load("ViT-B-32", "laion2b_s34b_b79")
    with pytest.raises(ModelError, match=r"needs weights: set pretrained to one of openai, .* or the path"):
        load("ViT-B-32")
    with pytest.raises(ModelError, match="brings its own weights"):
        load("tiny", "openai")
    with pytest.raises(ModelError, match="brings its own weights"):
        load("hf-hub:someone/something", "openai")


def test_without_a_network_it_fails_at_once_and_says_how_to_go_on(no_network, monkeypatch):
    def dial(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket, "create_connection", dial)
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    start = time.monotonic()
    for model, pretrained in (
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("hf-hub:no-such-owner/no-such-model", None),
    ):
        with pytest.raises(ModelError, match="cannot be reached") as caught:
            load(model, pretrained)
        message = str(caught.value)
        assert model in message
        assert "no route to host" in message
        assert "embed.pretrained: /path/to/checkpoint" in message
        assert "embed.model: tiny" in message
    assert time.monotonic() - start < 10


def test_checkpoints_that_are_damaged_or_of_another_model(checkpoints, tmp_path):
    path = checkpoints["curate-test-vit"]
    for name, content in (
        ("text.pt", b"hello"),
        ("text.safetensors", b"hello" * 10),
        ("empty.pt", b""),
        ("cut.safetensors", path.read_bytes()[:5_000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}: not a readable checkpoint"):
            load("curate-test-vit", str(tmp_path / name))
    with pytest.raises(ModelError, match=r"curate-test-vit.safetensors: not weights of curate-test-resnet: "):
        load("curate-test-resnet", str(path))
    with pytest.raises(ModelError, match=r"'missing\.pt' is neither a file nor weights"):
        load("curate-test-vit", "missing.pt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        load("curate-test-vit", str(tmp_path / "bomb.pt"))
    assert not (tmp_path / "ran").exists()


def test_local_dir_and_its_errors(checkpoints, tmp_path):
    config = {"model_cfg": {"embed_dim": 48, "vision_cfg": TOWERS["curate-test-vit"], "text_cfg": TEXT}}
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot load local-dir:"):
        load(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_model.safetensors").write_bytes(checkpoints["curate-test-vit"].read_bytes())
    model = load(f"local-dir:{tmp_path}")
    assert (model.preprocess.mean, model.preprocess.resize_mode) == ((0.5, 0.5, 0.5), "squash")
    assert model.encode_texts(["cat"]).shape == (1, 48)
    with pytest.raises(ModelError, match="not found"):
        load("local-dir:/nonexistent")


def test_settings_are_checked(checkpoints):
    path = str(checkpoints["curate-test-vit"])
    with pytest.raises(ModelError, match=r"embed\.device 'quantum' cannot be used"):
        load("curate-test-vit", path, device="quantum")
    with pytest.raises(
        ModelError, match=r"embed\.precision must be auto, float32, float16, bfloat16, got 'int4'"
    ):
        load("curate-test-vit", path, precision="int4")
    with pytest.raises(ModelError, match="batch_size must be at least 1, got 0"):
        load("curate-test-vit", path, batch_size=0)


def test_weights_imply_their_preprocessing_and_activation():
    open_clip = import_open_clip()
    agreed = clips._agreed_preprocessing(open_clip, "ViT-B-16-SigLIP", ["webli"])
    assert agreed["resize_mode"] == "squash"
    assert agreed["mean"] == (0.5, 0.5, 0.5)
    assert clips._resolve(open_clip, "ViT-B-32", "openai")[2] == {"force_quick_gelu": True}
    assert clips._resolve(open_clip, "ViT-B-32", "laion2b_s34b_b79k")[2] == {}


def test_loading_leaves_logging_and_warnings_alone(checkpoints, caplog):
    import logging

    root = logging.getLogger()
    handlers = list(root.handlers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load("curate-test-vit", str(checkpoints["curate-test-vit"]))
    assert root.handlers == handlers
    assert root.manager.disable == logging.NOTSET
    assert caplog.records == []
    assert caught == []
