"""Expert-load balancing for mixture-of-experts models: the binding of libultraep."""
