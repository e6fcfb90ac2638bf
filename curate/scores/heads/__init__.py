"""Networks that are trained to score samples: small heads on embeddings, and small networks on pixels."""
