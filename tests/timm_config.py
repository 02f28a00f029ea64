"""A small CaiT: all axis sizes different."""

CAIT = {
    "model_type": "cait",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "depth_token_only": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "class_intermediate_size": 44,
    "image_size": 15,
    "patch_size": 5,
    "num_channels": 2,
    "num_labels": 7,
    "qkv_bias": True,
    "layer_norm_eps": 1e-3,
}
