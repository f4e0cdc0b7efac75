"""Families that hear."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import IMAGE, noise, with_images, with_mask, words
from .towers import BEGIN, END, LLAMA, PAD, PROJECTION, QWEN2, TEXT, VOCABULARY

MEL_BINS = 16
SEQ2SEQ = {
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 72,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 104,
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "decoder_start_token_id": 3,
}


def _whisper() -> PretrainedConfig:
    return composite(
        "whisper",
        "WhisperForConditionalGeneration",
        d_model=48,
        num_mel_bins=MEL_BINS,
        max_source_positions=20,
        max_target_positions=24,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **SEQ2SEQ,
    )


def _whisper_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {
        "input_features": noise(MEL_BINS, 2 * config.max_source_positions),
        "decoder_input_ids": words(6),
    }


def _speech2text() -> PretrainedConfig:
    return composite(
        "speech_to_text",
        "Speech2TextForConditionalGeneration",
        d_model=48,
        input_feat_per_channel=MEL_BINS,
        max_source_positions=40,
        max_target_positions=24,
        num_conv_layers=2,
        conv_channels=40,
        **SEQ2SEQ,
    )


def _speech2text_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    return {
        "input_features": noise(32, MEL_BINS),
        "attention_mask": torch.ones(2, 32, dtype=torch.long),
        "decoder_input_ids": words(6),
    }


def _clap() -> PretrainedConfig:
    audio = {
        "window_size": 2,
        "num_mel_bins": MEL_BINS,
        "spec_size": 64,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "num_classes": 8,
        "hidden_size": 64,
        "patch_embeds_hidden_size": 16,
        "depths": [2, 2, 2],
        "num_attention_heads": [2, 4, 4],
        "mlp_ratio": 3.0,
        "enable_fusion": False,
    }
    return composite(
        "clap",
        "ClapModel",
        text_config={**TEXT, "type_vocab_size": 1, "pad_token_id": 1},
        audio_config=audio,
        projection_dim=PROJECTION,
    )


def _clap_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = words(8)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": noise(1, 200, MEL_BINS),
        "is_longer": torch.zeros(2, 1, dtype=torch.bool),
    }


def _qwen2_audio() -> PretrainedConfig:
    audio = {
        "model_type": "qwen2_audio_encoder",
        "d_model": 32,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 72,
        "num_mel_bins": MEL_BINS,
        "max_source_positions": 20,
    }
    return composite(
        "qwen2_audio",
        "Qwen2AudioForConditionalGeneration",
        audio_config=audio,
        text_config=QWEN2,
        audio_token_index=IMAGE,
    )


def _qwen2_audio_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    positions = config.audio_config.max_source_positions
    return {
        **with_mask(with_images(IMAGE, positions // 2)),
        "input_features": noise(MEL_BINS, 2 * positions),
        "feature_attention_mask": torch.ones(2, 2 * positions, dtype=torch.long),
    }


def _voxtral() -> PretrainedConfig:
    audio = {
        "hidden_size": 32,
        "intermediate_size": 128,  # also the width of four frames together, which the projector reads
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_mel_bins": MEL_BINS,
        "max_source_positions": 20,
    }
    return composite(
        "voxtral",
        "VoxtralForConditionalGeneration",
        audio_config=audio,
        text_config={**LLAMA, "head_dim": 16},
        audio_token_id=IMAGE,
    )


def _voxtral_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    positions = config.audio_config.max_source_positions
    return {**with_mask(with_images(IMAGE, positions // 4)), "input_features": noise(MEL_BINS, 2 * positions)}


def _granite_speech() -> PretrainedConfig:
    encoder = {
        "input_dim": MEL_BINS,
        "num_layers": 4,
        "hidden_dim": 32,
        "feedforward_mult": 3,
        "num_heads": 4,
        "dim_head": 16,
        "output_dim": 24,
        "context_size": 8,
        "max_pos_emb": 16,
        "conv_kernel_size": 5,
    }
    projector = {
        "model_type": "blip_2_qformer",
        "hidden_size": 56,
        "intermediate_size": 88,
        "num_attention_heads": 7,
        "num_hidden_layers": 3,
        "cross_attention_frequency": 1,
        "encoder_hidden_size": 32,
    }
    return composite(
        "granite_speech",
        "GraniteSpeechForConditionalGeneration",
        tie_word_embeddings=False,
        encoder_config=encoder,
        projector_config=projector,
        text_config={**LLAMA, "model_type": "granite"},
        audio_token_index=IMAGE,
        has_lora_adapter=False,
        downsample_rate=2,
        window_size=4,
    )


def _granite_speech_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    return {
        **with_mask(with_images(IMAGE, 8)),
        "input_features": noise(16, MEL_BINS),
        "input_features_mask": torch.ones(2, 8, dtype=torch.bool),
    }


def _moonshine() -> PretrainedConfig:
    # the two towers have the same heads: transformers 4.57 builds them from one entry
    return composite(
        "moonshine",
        "MoonshineForConditionalGeneration",
        hidden_size=48,
        intermediate_size=104,
        encoder_num_hidden_layers=3,
        encoder_num_attention_heads=6,
        decoder_num_hidden_layers=4,
        decoder_num_attention_heads=6,
        partial_rotary_factor=0.5,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    )


def _wave_to_words(_: PretrainedConfig) -> dict[str, Tensor]:
    return {"input_values": noise(4096), "decoder_input_ids": words(6)}


CONVOLUTIONS = {
    "conv_dim": [32, 40, 40],
    "conv_stride": [5, 4, 4],
    "conv_kernel": [10, 6, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


def _speecht5() -> PretrainedConfig:
    return composite(
        "speecht5",
        "SpeechT5ForSpeechToText",
        hidden_size=48,
        encoder_max_relative_position=8,
        max_text_positions=24,
        **SEQ2SEQ,
        **CONVOLUTIONS,
    )


def _wav2vec2() -> PretrainedConfig:
    return composite(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        hidden_size=48,
        intermediate_size=104,
        num_attention_heads=6,
        num_hidden_layers=4,
        vocab_size=32,
        **CONVOLUTIONS,
    )


def _wave(_: PretrainedConfig) -> dict[str, Tensor]:
    return {"input_values": noise(1600)}


def _speech_encoder_decoder() -> PretrainedConfig:
    encoder = {
        "model_type": "wav2vec2",
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        **CONVOLUTIONS,
    }
    decoder = {"model_type": "bert", **TEXT, "is_decoder": True, "add_cross_attention": True}
    return composite("speech-encoder-decoder", "SpeechEncoderDecoderModel", encoder=encoder, decoder=decoder)


def _seamless_m4t() -> PretrainedConfig:
    return composite(
        "seamless_m4t",
        "SeamlessM4TForSpeechToText",
        hidden_size=48,
        speech_encoder_layers=3,
        speech_encoder_attention_heads=4,
        speech_encoder_intermediate_size=88,
        feature_projection_input_dim=2 * MEL_BINS,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        max_source_positions=64,
        max_position_embeddings=64,
        **SEQ2SEQ,
    )


def _seamless_m4t_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    return {"input_features": noise(24, 2 * MEL_BINS), "decoder_input_ids": words(6)}


def _musicgen() -> PretrainedConfig:
    codec = {
        "model_type": "encodec",
        "hidden_size": 16,
        "num_filters": 8,
        "upsampling_ratios": [4, 2],
        "codebook_size": 32,
        "sampling_rate": 16000,
        "target_bandwidths": [40.0],
        "num_lstm_layers": 1,
    }
    decoder = {
        "model_type": "musicgen_decoder",
        "hidden_size": 48,
        "ffn_dim": 104,
        "num_attention_heads": 6,
        "num_hidden_layers": 4,
        "num_codebooks": 4,
        "vocab_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 32,
        "bos_token_id": 32,
    }
    texts = {
        "model_type": "t5",
        "d_model": 32,
        "d_ff": 72,
        "d_kv": 16,
        "num_heads": 4,
        "num_layers": 3,
        "vocab_size": VOCABULARY,
    }
    return composite(
        "musicgen",
        "MusicgenForConditionalGeneration",
        text_encoder=texts,
        audio_encoder=codec,
        decoder=decoder,
    )


def _musicgen_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    codes = words(6, low=0, high=config.decoder.vocab_size)
    books = torch.stack([(codes + book) % config.decoder.vocab_size for book in range(config.decoder.num_codebooks)], 1)
    return {**with_mask(words(8)), "decoder_input_ids": books.flatten(0, 1)}


SPEECH = (
    Family("whisper", _whisper, _whisper_inputs),
    Family("speech2text", _speech2text, _speech2text_inputs),
    Family("qwen2_audio", _qwen2_audio, _qwen2_audio_inputs),
    Family("voxtral", _voxtral, _voxtral_inputs),
    Family("granite_speech", _granite_speech, _granite_speech_inputs),
    Family("moonshine", _moonshine, _wave_to_words),
    Family("speecht5", _speecht5, _wave_to_words),
    Family("wav2vec2", _wav2vec2, _wave),
    Family("speech_encoder_decoder", _speech_encoder_decoder, _wave_to_words),
    Family("seamless_m4t", _seamless_m4t, _seamless_m4t_inputs),
    Family("musicgen", _musicgen, _musicgen_inputs),
    Family("clap", _clap, _clap_inputs),
)
