"""Plain rules, without a model, that judge captions and divide English sentences into claims."""
