"""The model, gate and training loop of train_moe.py."""
